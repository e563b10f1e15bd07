"""ROS images to RGB arrays, against references that do without OpenCV, and the kept messages."""

import sys
import types

import cv2
import numpy as np
import pytest
from support.live import Header, compressed_message, image_message

from segmentation_node.errors import ImageError
from segmentation_node.ros import conversions
from segmentation_node.ros.outputs import KeptImage, encode_jpeg, encode_png

SIZE = (6, 8)
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
COLOR = np.array([200, 90, 30], np.uint8)


def noise(channels, depth=np.uint8):
    shape = SIZE + ((channels,) if channels > 1 else ())
    return np.random.RandomState(channels).randint(0, np.iinfo(depth).max + 1, shape).astype(depth)


def eight_bit(pixels):
    """0-65535 to 0-255, rounded to the nearest."""
    return np.floor(pixels / 257.0 + 0.5).astype(np.uint8)


def reference(pixels, encoding):
    """RGB of rgb, bgr, rgba, bgra and mono pixels of 8 or 16 bit."""
    if pixels.dtype == np.uint16:
        pixels = eight_bit(pixels)
    if encoding.startswith("mono"):
        return np.stack([pixels] * 3, axis=-1)
    return pixels[..., 2::-1] if encoding.startswith("bgr") else pixels[..., :3]


def raw(pixels, encoding, padding=0, big=False):
    """The message of these pixels, each row followed by ``padding`` bytes of noise."""
    data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(data.tobytes(), np.uint8).reshape(pixels.shape[0], -1)
    filler = np.full((rows.shape[0], padding), 0xA5, np.uint8)
    return image_message(np.hstack([rows, filler]).tobytes(), pixels.shape[:2], encoding, big=big)


PLAIN = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "bgr16", "rgba16", "bgra16", "mono16")


def sample(encoding):
    channels = conversions.ENCODINGS[encoding][1]
    return noise(channels, np.uint16 if encoding.endswith("16") else np.uint8)


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("padding", [0, 2, 6])
@pytest.mark.parametrize("encoding", PLAIN)
def test_plain_encodings(encoding, padding, big):
    pixels = sample(encoding)
    converted = conversions.to_rgb(raw(pixels, encoding, padding, big))
    assert converted.dtype == np.uint8
    assert np.array_equal(converted, reference(pixels, encoding))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("pattern", sorted(BAYER))
def test_bayer_patterns(pattern, depth):
    mosaic = np.empty(SIZE, np.uint8)
    for index, letter in enumerate(BAYER[pattern]):
        mosaic[index // 2 :: 2, index % 2 :: 2] = COLOR["RGB".index(letter)]
    pixels = mosaic if depth == 8 else mosaic.astype(np.uint16) * 257
    converted = conversions.to_rgb(raw(pixels, "bayer_%s%d" % (pattern, depth)))
    assert (converted == COLOR).all()


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")],
)
def test_yuv(encoding, order):
    red, green, blue = COLOR / 255.0  # BT.601, studio range
    y = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112.0 * blue
    v = 128 + 112.0 * red - 93.786 * green - 18.214 * blue
    pair = [int(round({"Y": y, "U": u, "V": v}[letter])) for letter in order]
    data = bytes(pair * (SIZE[1] // 2) * SIZE[0])
    converted = conversions.to_rgb(image_message(data, SIZE, encoding))
    assert converted.shape == SIZE + (3,)
    assert np.abs(converted.astype(int) - COLOR).max() <= 2


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", "UV"), ("nv21", "VU"), ("nv24", "UV")])
def test_two_planes(encoding, order, padding):
    """Each 2x2 block has a colour of its own; neighbours' chroma is not mixed."""
    colors = np.random.RandomState(1).randint(60, 200, (SIZE[0] // 2, SIZE[1] // 2, 3))
    rgb = colors.repeat(2, axis=0).repeat(2, axis=1) / 255.0
    y = 16 + rgb @ [65.481, 128.553, 24.966]
    chroma = {
        "U": 128 + rgb @ [-37.797, -74.203, 112.0],
        "V": 128 + rgb @ [112.0, -93.786, -18.214],
    }
    pairs = np.stack([chroma[letter] for letter in order], axis=-1)
    pairs = pairs if encoding == "nv24" else pairs[::2, ::2]
    pairs = pairs.reshape(pairs.shape[0], -1).round().astype(np.uint8)
    # V4L2: a row of nv24's colours is twice as long as one of brightness, and so is its padding.
    wider = padding * pairs.shape[1] // SIZE[1]
    pairs = raw(pairs, "mono8", wider)
    message = raw(y.round().astype(np.uint8), "mono8", padding)
    message.encoding = encoding
    message.data = message.data + pairs.data
    for _ in range(2):
        converted = conversions.to_rgb(message)
        assert converted.shape == SIZE + (3,) and converted.dtype == np.uint8
        assert np.abs(converted - rgb * 255.0).max() <= 3
        message.data = message.data[: len(message.data) - wider]  # the last row's


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((5, 8), "the image is 8x5; nv12 has even sides"),
        ((6, 7), "the image is 7x6; nv12 has even sides"),
        ((6, 8), "data has 64 bytes"),
    ],
)
def test_two_planes_that_do_not_fit_are_one_line(size, problem):
    message = image_message(bytes(64), size, "nv12", step=size[1])
    with pytest.raises(ImageError, match="^" + problem):
        conversions.to_rgb(message)


def test_full_colour_has_sides_of_any_length():
    message = image_message(bytes(3 * 5 * 7), (5, 7), "nv24", step=7)
    assert conversions.to_rgb(message).shape == (5, 7, 3)


def test_every_encoding_is_tested():
    bayer = {"bayer_%s%d" % (name, depth) for name in BAYER for depth in (8, 16)}
    yuv = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv"}
    assert set(PLAIN) | bayer | yuv == set(conversions.ENCODINGS)
    assert {"nv12", "nv21", "nv24"} == set(conversions.TWO_PLANES)


def test_rgb8_is_not_copied():
    message = raw(noise(3), "rgb8")
    assert np.shares_memory(conversions.to_rgb(message), np.frombuffer(message.data, np.uint8))


def test_the_last_rows_padding_may_be_missing():
    pixels = noise(3)
    message = raw(pixels, "rgb8", padding=4)
    message.data = message.data[:-4]
    assert np.array_equal(conversions.to_rgb(message), pixels)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"encoding": "32FC1"}, "encoding '32FC1' is not supported"),
        ({"encoding": "8UC3"}, "encoding '8UC3' is not supported"),
        ({"encoding": ""}, "encoding '' is not supported"),
        ({"step": 23}, "step is 23; expected 24 or more"),
        ({"step": 0}, "step is 0"),
        ({"step": 2**32 - 1}, "data has 144 bytes"),
        ({"height": 7}, "data has 144 bytes; expected step * rows = 24 * 7 = 168"),
        ({"width": 0}, "the image is 0x6"),
        ({"height": 0}, "the image is 8x0"),
        ({"width": 2**31}, "the image is 2147483648x6"),
        ({"height": 2**32 - 1, "width": 2**32 - 1}, "expected 1 to"),
        ({"data": b""}, "data has 0 bytes"),
    ],
)
def test_bad_images_are_one_line(change, fragment):
    message = raw(noise(3), "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError) as caught:
        conversions.to_rgb(message)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_what_opencv_refuses_is_one_line():
    data = bytes(6 * 7 * 2)  # 4:2:2 has no odd width
    with pytest.raises(ImageError) as caught:
        conversions.to_rgb(image_message(data, (6, 7), "yuyv"))
    assert "7x6" in str(caught.value) and "\n" not in str(caught.value)


def encoded(kind, pixels):
    return cv2.imencode("." + kind, pixels[..., ::-1])[1].tobytes()


def test_compressed_png_is_exact_and_jpeg_close():
    pixels = cv2.resize(noise(3), (64, 48))
    png = conversions.decode_compressed(compressed_message(encoded("png", pixels), "png"))
    assert np.array_equal(png, pixels)
    jpeg = conversions.decode_compressed(compressed_message(encoded("jpg", pixels)))
    assert np.abs(jpeg.astype(int) - pixels).mean() < 5


@pytest.mark.parametrize("pattern", sorted(BAYER))
@pytest.mark.parametrize("depth", [8, 16])
def test_a_mosaic_that_was_stored_as_it_was_gets_its_colours(pattern, depth):
    mosaic = noise(1) if depth == 8 else noise(1, np.uint16)
    encoding = "bayer_%s%d" % (pattern, depth)
    message = compressed_message(cv2.imencode(".png", mosaic)[1].tobytes())
    message.format = encoding + "; png compressed "
    exact = conversions.to_rgb(raw(mosaic, encoding))
    assert np.array_equal(conversions.decode_compressed(message), exact)


@pytest.mark.parametrize(
    "stored, is_swapped", [("jpeg compressed bgr8", False), ("png compressed rgb8", True)]
)
def test_channels_as_image_transport_stored_them(stored, is_swapped):
    pixels = noise(3)
    message = compressed_message(encoded("png", pixels))
    message.format = "rgb8; " + stored
    expected = pixels[..., ::-1] if is_swapped else pixels
    assert np.array_equal(conversions.decode_compressed(message), expected)


@pytest.mark.parametrize("encoding", PLAIN)
def test_a_tiff_of_image_transport_is_the_image_that_it_was_made_of(encoding):
    """Its publisher hands over the pixels as they lie, and OpenCV takes the first for blue."""
    pixels = sample(encoding)
    message = compressed_message(cv2.imencode(".tiff", pixels)[1].tobytes())
    message.format = encoding + "; tiff compressed "
    assert np.array_equal(conversions.decode_compressed(message), reference(pixels, encoding))


def test_a_mosaic_that_was_stored_in_colour_or_grey_stays():
    pixels = noise(3)
    message = compressed_message(encoded("png", pixels))
    message.format = "bayer_rggb8; png compressed bgr8"
    assert np.array_equal(conversions.decode_compressed(message), pixels)
    message = compressed_message(cv2.imencode(".png", noise(1))[1].tobytes())
    message.format = "bayer_rggb8; png compressed mono8"
    grey = np.stack([noise(1)] * 3, axis=-1)
    assert np.array_equal(conversions.decode_compressed(message), grey)


@pytest.mark.parametrize(
    ("encoding", "stored"), [("mono16", "mono16"), ("bgr16", "bgr16"), ("bgra16", "bgr16")]
)
def test_16_bits_in_a_png_are_scaled_as_the_raw_topics(encoding, stored):
    pixels = sample(encoding)
    message = compressed_message(cv2.imencode(".png", pixels)[1].tobytes())
    message.format = "%s; png compressed %s" % (encoding, stored)
    assert np.array_equal(conversions.decode_compressed(message), reference(pixels, encoding))


@pytest.mark.parametrize(
    "format_", ["mono16; compressedDepth png", "16UC1; png compressed ", "32FC1; compressedDepth"]
)
def test_depths_are_no_camera_image(format_):
    message = compressed_message(encoded("png", noise(3)))
    message.format = format_
    with pytest.raises(ImageError, match="depths"):
        conversions.decode_compressed(message)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_truncated_compressed_images_are_refused(kind, share):
    data = encoded(kind, cv2.resize(noise(3), (64, 48)))
    with pytest.raises(ImageError) as caught:
        conversions.decode_compressed(compressed_message(data[: int(len(data) * share)]))
    assert "cannot be decoded" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"not an image", b"\xff\xd8\xff\xd9", bytes(1000)])
def test_corrupt_compressed_images_are_refused(data):
    with pytest.raises(ImageError, match="cannot be decoded"):
        conversions.decode_compressed(compressed_message(data))


class FakeBridge:
    """What cv_bridge does, by the reference above."""

    calls = 0

    def cv2_to_imgmsg(self, pixels, encoding):
        return raw(pixels, encoding)

    def imgmsg_to_cv2(self, message, encoding):
        assert encoding == "rgb8"
        FakeBridge.calls += 1
        if message.is_bigendian:
            raise AttributeError("`newbyteorder` was removed from the ndarray class in NumPy 2.0")
        size = 2 if message.encoding.endswith("16") else 1
        channels = conversions.ENCODINGS[message.encoding][1]
        # Like the real one (core.py of Foxy to Rolling): native order, rows that end with a pixel.
        shape = (message.height, message.step // size // channels, channels)
        pixels = np.ndarray(shape, "<u2" if size == 2 else np.uint8, bytes(message.data))
        pixels = pixels[:, : message.width]
        return reference(pixels if channels > 1 else pixels[..., 0], message.encoding)


def install_bridge(monkeypatch, bridge):
    module = types.ModuleType("cv_bridge")
    module.CvBridge = bridge
    monkeypatch.setitem(sys.modules, "cv_bridge", module)


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("encoding", PLAIN)
def test_cv_bridge_gives_the_same(monkeypatch, encoding, padding, big):
    install_bridge(monkeypatch, FakeBridge)
    convert, reason = conversions.choose_converter()
    assert reason == "images are converted by cv_bridge"
    pixels = sample(encoding)
    message = raw(pixels, encoding, padding, big)
    # The last row's may be missing.
    message.data = message.data[: len(message.data) - padding]
    FakeBridge.calls = 0
    assert np.array_equal(convert(message), reference(pixels, encoding))
    own = encoding == "rgb8" or padding > 0 or big
    assert FakeBridge.calls == (not own)


@pytest.mark.parametrize("encoding", ["uyvy", "yuyv", "nv12", "nv21", "nv24"])
def test_what_cv_bridge_may_not_know_is_not_given_to_it(monkeypatch, encoding):
    install_bridge(monkeypatch, FakeBridge)
    convert, _ = conversions.choose_converter()
    bytes_a_pixel = {"nv12": 1.5, "nv21": 1.5, "nv24": 3}.get(encoding, 2)
    step = SIZE[1] * (2 if encoding in conversions.ENCODINGS else 1)
    data = bytes(int(SIZE[0] * SIZE[1] * bytes_a_pixel))
    FakeBridge.calls = 0
    assert convert(image_message(data, SIZE, encoding, step=step)).shape == SIZE + (3,)
    assert FakeBridge.calls == 0


def test_under_cv_bridge_bad_images_are_still_refused(monkeypatch):
    class Failing(FakeBridge):
        def imgmsg_to_cv2(self, message, encoding):
            if message.width == SIZE[1]:
                raise TypeError("first line\nsecond line")
            return super().imgmsg_to_cv2(message, encoding)

    install_bridge(monkeypatch, Failing)
    convert, _ = conversions.choose_converter()
    with pytest.raises(ImageError, match="cv_bridge cannot convert it: first line second line"):
        convert(raw(noise(3), "bgr8"))
    with pytest.raises(ImageError, match="not supported"):
        convert(image_message(bytes(4 * 48), SIZE, "32FC1"))


class CannotStart:
    def __init__(self):
        raise AttributeError("_ARRAY_API not found\nin a NumPy 1 module")


class WrongShape(FakeBridge):
    def imgmsg_to_cv2(self, message, encoding):
        return np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("bridge", "fragment"), [(CannotStart, "_ARRAY_API not found"), (WrongShape, "(2, 2)")]
)
def test_a_broken_cv_bridge_is_replaced_and_the_reason_told(monkeypatch, bridge, fragment):
    install_bridge(monkeypatch, bridge)
    convert, reason = conversions.choose_converter()
    assert convert is conversions.to_rgb
    assert "cv_bridge fails" in reason and fragment in reason and "\n" not in reason


def test_without_cv_bridge_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    convert, reason = conversions.choose_converter()
    assert convert is conversions.to_rgb
    assert "cv_bridge is missing" in reason and "\n" not in reason


@pytest.mark.parametrize("channels", [1, 3])
def test_a_kept_image_keeps_its_array_while_the_size_stays(channels):
    kept = KeptImage({1: "mono8", 3: "rgb8"}[channels], channels)
    first, data = kept.resize((4, 6)), kept.message.data
    first[...] = 7
    assert kept.resize((4, 6)) is first and kept.message.data is data
    assert data.tolist() == [7] * (4 * 6 * channels)
    assert (kept.message.height, kept.message.width, kept.message.step) == (4, 6, 6 * channels)
    other = kept.resize((2, 6))
    assert other is not first and len(kept.message.data) == 2 * 6 * channels
    other[...] = 9
    assert kept.message.data.tolist() == [9] * (2 * 6 * channels)


def test_encoders():
    header = Header(frame_id="camera")
    class_map = noise(1)
    name, data = encode_png(class_map)
    assert "png" in name
    assert np.array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), class_map)
    flat = np.full(SIZE + (3,), COLOR)
    name, data = encode_jpeg(flat)
    assert "jpeg" in name
    message = compressed_message(data.tobytes(), stamp=header.stamp)
    assert np.abs(conversions.decode_compressed(message).astype(int) - flat).max() <= 3
