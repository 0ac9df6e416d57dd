"""Methods and their variants by name."""

from pathlib import Path

import pytest
import yaml

from anomaly_zoo import yaml_files
from anomaly_zoo.yaml_files import SWEEPS, expand, find_method, method_files, variants


@pytest.fixture
def sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "coft.yaml").write_text("frozen: {steps: 0}\nquick: {steps: 3, margin: 0.5} # soon done\n")
    monkeypatch.setattr(yaml_files, "SWEEPS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_sweep_file_has_a_variant_with_a_comment_on_every_line(file: Path) -> None:
    assert file.stem in method_files()
    assert f"make ablate METHOD={file.stem}\n" in file.read_text()
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.count(" # ") == 1 for line in lines)
    assert [line.partition(":")[0] for line in lines] == [*variants(file.stem)]  # YAML takes the last of two in silence
    assert "all" not in variants(file.stem)
    assert variants(file.stem).get("frozen", {"steps": 0}) == {"steps": 0}  # patchcore trains nothing


def test_a_variant_is_found_by_name(sweeps: Path) -> None:
    assert find_method("coft") == (method_files()["coft"], {})
    assert find_method("coft:quick") == (method_files()["coft"], {"steps": 3, "margin": 0.5})
    assert find_method(sweeps / "coft.yaml") == (sweeps / "coft.yaml", {})


def test_a_paper_method_shares_the_variants_unless_it_has_its_own(sweeps: Path) -> None:
    assert variants("coft_paper") == variants("coft")
    (sweeps / "coft_paper.yaml").write_text(yaml.safe_dump({"longer": {"steps": 99}}))
    assert [*variants("coft_paper")] == ["longer"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coft:quik", r"coft has no variant 'quik'\. Did you mean coft:quick\? Variants: frozen, quick\."),
        ("coft:", r"coft has no variant ''\. Variants: frozen, quick\."),
        ("pf:quick", r"pf has no variant 'quick'\. Variants: none\."),
        ("cofd:quick", "'cofd' is unknown. Did you mean coft\\? Methods: coft, "),
        ("missing.yaml", "'missing.yaml' is unknown: there is no such file"),
    ],
)
def test_what_there_is_not_is_named_with_what_there_is(name: str, said: str, sweeps: Path) -> None:
    with pytest.raises(ValueError, match=said):
        find_method(name)


def test_all_stands_for_every_variant(sweeps: Path) -> None:
    asked = ["coft:quick", "pf", "coft:all", "pf", "my_coft.yaml"]
    assert expand(asked) == ["coft:quick", "pf", "coft:frozen", "my_coft.yaml"]
    with pytest.raises(ValueError, match="pf has no variants"):
        expand(["pf:all"])
    with pytest.raises(ValueError, match="'cofd' is unknown"):
        expand(["cofd:all"])


@pytest.mark.parametrize("content", ["", "- frozen", "frozen: 3", "frozen: {steps"])
def test_a_damaged_sweep_file_is_named_in_one_line(content: str, sweeps: Path) -> None:
    (sweeps / "coft.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"coft\.yaml") as raised:
        find_method("coft:frozen")
    assert "\n" not in str(raised.value)
