"""The public datasets that can be prepared: a declaration each."""

from functools import partial

from anomaly_zoo.data.prepare import layouts
from anomaly_zoo.data.prepare.conversion import PublicDataset
from anomaly_zoo.data.prepare.download import Download
from anomaly_zoo.data.prepare.elpv import ELPV

_BY_NC_SA = "is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike."
_MVTEC = "https://www.mydrive.ch/shares"
_MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets"

PUBLIC_DATASETS = {
    "btad": PublicDataset(
        title="BTAD",  # three industrial products, 01, 02 and 03
        licence=f"BTAD {_BY_NC_SA}",
        citation="Mishra et al., VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization, "
        "ISIE 2021, doi:10.1109/ISIE45552.2021.9576231",
        by_hand="Get btad.zip from https://avires.dimi.uniud.it/papers/btad/btad.zip.",
        arrange=partial(layouts.like_mvtec_ad, normal="ok"),
        download=Download(
            "btad.zip",
            ("https://avires.dimi.uniud.it/papers/btad/btad.zip",),
            sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
        ),
    ),
    "cifar10": PublicDataset(
        title="CIFAR-10",  # the controlled benchmark: one class is normal, the nine others are anomalous
        licence="CIFAR-10 states no licence; its page asks for the citation.",
        citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        by_hand="Get cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html.",
        arrange=layouts.cifar10,
        download=Download(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            num_bytes=170_052_171,
        ),
        published=(50_000, 10_000, 90_000),
        max_test=100,  # all would be 100,000 files
    ),
    "dagm": PublicDataset(
        title="DAGM 2007",  # ten generated textures with one kind of defect each, marked by a rough ellipse
        licence="DAGM 2007: see the terms on the page that it comes from.",
        citation="Wieler and Hahn, Weakly Supervised Learning for Industrial Optical Inspection, DAGM 2007",
        by_hand="Get the archives of Class1 to Class10 (the DAGM 2007 competition dataset) from the Heidelberg "
        "Collaboratory for Image Processing, and unpack them into one folder.",
        arrange=layouts.dagm,
    ),
    "elpv": ELPV,
    "ksdd": PublicDataset(
        title="KolektorSDD",  # surfaces of plastic commutators, 8 images of each of 50; 52 of them show a crack
        licence=f"KolektorSDD {_BY_NC_SA}",
        citation="Tabernik et al., Segmentation-Based Deep-Learning Approach for Surface-Defect Detection, Journal of "
        "Intelligent Manufacturing 31, 2020, doi:10.1007/s10845-019-01476-x",
        by_hand="Get KolektorSDD.zip from https://www.vicos.si/resources/kolektorsdd.",
        arrange=layouts.ksdd,
        download=Download(
            "KolektorSDD.zip",
            ("https://go.vicos.si/kolektorsdd",),
            sha256="65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
        ),
        published=(173, 174, 52),
    ),
    "ksdd2": PublicDataset(
        title="KolektorSDD2",  # surfaces of a production item with defects of many kinds
        licence=f"KolektorSDD2 {_BY_NC_SA}",
        citation="Bozic et al., Mixed supervision for surface-defect detection: from weakly to fully supervised "
        "learning, Computers in Industry 129, 2021, doi:10.1016/j.compind.2021.103459",
        by_hand="Get KolektorSDD2.zip from https://www.vicos.si/resources/kolektorsdd2.",
        arrange=layouts.ksdd2,
        published=(2085, 894, 110),
    ),
    "magnetic_tile": PublicDataset(
        title="Magnetic Tile",  # 1,344 images of magnetic tiles with five kinds of defects
        licence="The magnetic tile dataset states no licence; its authors welcome use with citation.",
        citation="Huang et al., Surface defect saliency of magnetic tile, The Visual Computer 36, 2020, "
        "doi:10.1007/s00371-018-1588-5",
        by_hand="Get the folders MT_Blowhole to MT_Uneven from "
        "https://github.com/abin24/Magnetic-tile-defect-datasets.",
        arrange=layouts.magnetic_tile,
        published=(476, 476, 392),
    ),
    "mpdd": PublicDataset(
        title="MPDD",  # six categories of painted metal parts
        licence=f"MPDD {_BY_NC_SA}",
        citation="Jezek et al., Deep learning-based defect detection of metal parts: evaluating current methods in "
        "complex conditions, ICUMT 2021, doi:10.1109/ICUMT54235.2021.9631567",
        by_hand="Follow the link to the dataset at https://github.com/stepanje/MPDD.",
        arrange=layouts.like_mvtec_ad,
        published=(888, 176, 282),
    ),
    "mvtec_ad": PublicDataset(
        title="MVTec AD",  # 15 categories of objects and textures
        licence=f"MVTec AD {_BY_NC_SA}",
        citation="Bergmann et al., The MVTec Anomaly Detection Dataset: A Comprehensive Real-World Dataset "
        "for Unsupervised Anomaly Detection, "
        "International Journal of Computer Vision 129, 2021, doi:10.1007/s11263-020-01400-4",
        by_hand=f"Get mvtec_anomaly_detection.tar.xz from {_MVTEC_PAGE}/mvtec-ad.",
        arrange=layouts.like_mvtec_ad,
        download=Download(
            "mvtec_anomaly_detection.tar.xz",
            (  # the link has moved again and again
                f"{_MVTEC}/38536/3830184030e49fe74747669442f0f283/download/420938113-1629960298/"
                "mvtec_anomaly_detection.tar.xz",
                f"{_MVTEC}/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/"
                "mvtec_anomaly_detection.tar.xz",
                f"{_MVTEC}/38536/3830184030e49fe74747669442f0f282/download/420938113-1629952094/"
                "mvtec_anomaly_detection.tar.xz",
            ),
            sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            num_bytes=5_264_982_680,
        ),
        published=(3629, 467, 1258),
    ),
    "mvtec_ad_2": PublicDataset(
        title="MVTec AD 2",  # 8 categories, some transparent or overlapping, under changing light
        licence=f"MVTec AD 2 {_BY_NC_SA}",
        citation="Heckler-Kram et al., The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection, "
        "2025, arXiv:2503.21622",
        by_hand=f"Get mvtec_ad_2.tar.gz from {_MVTEC_PAGE}/mvtec-ad-2.",
        arrange=layouts.mvtec_ad_2,
        download=Download(
            "mvtec_ad_2.tar.gz",
            (
                f"{_MVTEC}/121573/7f68fe2c4f7c2ceaa08f463aaeb2f414/download/466712769-1743422799/mvtec_ad_2.tar.gz",
                f"{_MVTEC}/150997/701c90d3aea6588f404936e32a674602/download/466712769-1743429042/mvtec_ad_2.tar.gz",
            ),
            sha256="c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4",
            num_bytes=32_739_596_982,
        ),
    ),
    # Structural and logical anomalies. A logical one (something is missing, or there is one too many) has no true
    # place, and the authors score maps by a metric of their own, so the ground truth is left out: image metrics only
    "mvtec_loco": PublicDataset(
        title="MVTec LOCO AD",
        licence=f"MVTec LOCO AD {_BY_NC_SA}",
        citation="Bergmann et al., Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection "
        "and Localization, International Journal of Computer Vision 130, 2022, doi:10.1007/s11263-022-01578-9",
        by_hand=f"Get mvtec_loco_anomaly_detection.tar.xz from {_MVTEC_PAGE}/mvtec-loco.",
        arrange=partial(layouts.like_mvtec_ad, masks=False, also=("*/test/logical_anomalies",)),
        download=Download(
            "mvtec_loco_anomaly_detection.tar.xz",
            (
                f"{_MVTEC}/48237/1b9106ccdfbb09a0c414bd49fe44a14a/download/430647091-1646842701/"
                "mvtec_loco_anomaly_detection.tar.xz",
            ),
            sha256="9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",
        ),
    ),
    "real_iad": PublicDataset(
        title="Real-IAD",  # 30 categories of small products, each seen from five sides
        licence="Real-IAD is given to researchers on request, for non-commercial use.",
        citation="Wang et al., Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly "
        "Detection, CVPR 2024",
        by_hand="Ask its authors at https://realiad4ad.github.io/Real-IAD/, and unpack one of the image archives and "
        "realiad_jsons into one folder.",
        arrange=layouts.real_iad,
    ),
    "visa": PublicDataset(
        title="VisA",  # 12 categories of complex, multiple and roughly aligned objects
        licence="VisA is licensed CC BY 4.0: attribution.",
        citation="Zou et al., SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation, "
        "ECCV 2022, doi:10.1007/978-3-031-20056-4_23",
        by_hand="Get VisA_20220922.tar from https://github.com/amazon-science/spot-diff.",
        arrange=layouts.visa,
        download=Download(
            "VisA_20220922.tar",
            ("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",),
            sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
            num_bytes=1_929_840_640,
        ),
        published=(8659, 962, 1200),
    ),
}
"""By the names that `python -m anomaly_zoo.data prepare` takes, in alphabetical order."""
