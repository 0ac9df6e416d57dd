"""`python -m anomaly_zoo fit|test|predict`: Lightning's command line for one method on one category.

`predict --model`, `export` and `serve` go on with the model folder that `fit --output` writes.
"""

import sys


def main() -> int:
    """Runs the command line. Returns 2, after one clear line, where the request cannot be met."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from anomaly_zoo import __version__

        sys.stdout.write(f"anomaly_zoo {__version__}\n")
        return 0

    from anomaly_zoo.deploy import commands
    from anomaly_zoo.freed_memory import keep_freed_memory

    keep_freed_memory()
    try:
        if commands.meant(arguments):
            return commands.main(arguments)
        from anomaly_zoo.command_line import CommandLine
        from anomaly_zoo.config import quiet

        with quiet():
            CommandLine()
    except (ValueError, OSError) as error:
        is_path = isinstance(error, OSError) and error.filename is not None
        sys.stderr.write(f"error: {error}{': check this path' if is_path else ''}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
