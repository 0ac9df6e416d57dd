"""What is measured of every run: the names of all scores and costs, which is better, and what tables show."""

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_005")  # AUPRO up to 0.3, and up to 0.05
SCORES = (*IMAGE_METRICS, *PIXEL_METRICS)  # higher is better
COSTS = ("adapt_s", "test_s", "ms_per_image", "peak_rss_mib", "trainable_params")  # lower is better

MAIN_SCORES = ("image_auroc", "aupro")
SHOWN = (*MAIN_SCORES, "adapt_s", "ms_per_image", "peak_rss_mib", "trainable_params")  # the columns of a table
LABELS = {"adapt_s": "seconds to adapt", "ms_per_image": "ms per image"}  # of the costs that figures show
SMALLEST = {"image_auroc": 0.005, "aupro": 0.01}  # the smallest differences worth having
BASELINE = "frozen"  # the method that gains refer to


def is_cost(name: str) -> bool:
    """Whether it is better the lower it is: times, sizes, and what its unit gives away as such.

    >>> is_cost("teacher_macs"), is_cost("aupro")
    (True, False)
    """
    return name in COSTS or name == "false_alarm_rate" or name.endswith(("_s", "_ms", "_mib", "_params", "_macs"))
