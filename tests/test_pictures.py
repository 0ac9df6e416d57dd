import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.pictures import MAX_SIDE_PX, Scale, colour, contact_sheet, outline, overlay, tile

SCALE = Scale(level=1.0, threshold=2.0)


def test_the_threshold_is_in_the_middle_of_the_colours() -> None:
    below, middle, above = colour(np.array([[1.0, 2.0, 3.0]]), SCALE)[0].astype(int)
    assert (colour(np.array([[-9.0, 99.0]]), SCALE)[0] == [below, above]).all()
    assert below[2] > below[0]  # cold
    assert above[0] > above[2]  # hot
    assert not (middle == below).all()
    assert (colour(np.array([[5.0]]), Scale(5.0, 5.0))[0, 0] == below).all()  # a map without spread


@pytest.mark.parametrize("width", [1, 2])
def test_the_outline_is_what_erosion_takes_away(width: int) -> None:
    region = np.random.default_rng(0).random((40, 50)) > 0.02
    region[:, :7] = True
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * width + 1, 2 * width + 1))
    eroded = cv2.erode(region.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    np.testing.assert_array_equal(outline(region, width), region & ~eroded)


def test_an_overlay_has_contours_where_the_map_passes_the_threshold() -> None:
    image = np.full((100, 120, 3), 90, np.uint8)
    anomaly_map = np.full((50, 60), 1.0)
    anomaly_map[10:20, 30:40] = 3.0
    picture = np.asarray(overlay(image, anomaly_map, SCALE))
    assert picture.shape == (100, 196, 3)
    white = (picture[:, :120] == 255).all(axis=2)
    rows, columns = white.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((20, 39, 60, 79), abs=1)
    assert not white[30, 70]  # inside


@pytest.mark.parametrize("shape", [(3000, 20), (20, 3000), (1, 1)])
def test_any_size_can_be_drawn(shape: tuple[int, int]) -> None:
    image, anomaly_map = np.zeros((*shape, 3), np.uint8), np.ones((16, 16), np.float32)
    assert max(overlay(image, anomaly_map, SCALE).size) <= MAX_SIDE_PX + 100
    assert tile(image, anomaly_map, SCALE, "name", is_anomalous=True).size == (160, 178)


def test_a_sheet_has_rows_of_tiles() -> None:
    tiles = [Image.new("RGB", (16, 18), (number, 0, 0)) for number in range(10)]
    sheet = np.asarray(contact_sheet(tiles, columns=4))
    assert sheet.shape == (54, 64, 3)
    assert [sheet[18 * (number // 4), 16 * (number % 4), 0] for number in range(10)] == list(range(10))
