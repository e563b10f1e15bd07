"""KITTI's object layout, made tiny."""

import cv2

LINES = """Car 0.25 1 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57
Van 0.00 0 -1.57 300.00 150.00 380.50 220.00 2.0 1.9 4.7 -2.1 1.7 21.0 -1.6
Person_sitting 0.00 2 0.1 10.00 20.00 30.00 60.00 1.2 0.6 0.8 1.0 1.5 8.0 0.2
Cyclist 0.00 3 -1.65 676.60 163.95 688.98 193.93 1.86 0.60 2.02 4.59 1.32 45.84 -1.55
Misc 0.00 0 -1.65 600.00 160.00 640.00 190.00 1.86 0.60 2.02 4.59 1.32 45.84 -1.55

DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
"""
PROJECTION = [707.0, 0.0, 604.1, 45.8, 0.0, 707.0, 180.5, -0.34, 0.0, 0.0, 1.0, 0.005]


CALIBRATION = "P2: " + " ".join(str(value) for value in PROJECTION)


def write(root, key, image_hwc, lines=LINES, calibration=CALIBRATION):
    for folder in ("image_2", "label_2", "calib"):
        (root / "training" / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "training/image_2" / (key + ".png")), image_hwc[..., ::-1])
    (root / "training/label_2" / (key + ".txt")).write_text(lines)
    (root / "training/calib" / (key + ".txt")).write_text("P1: 1 2 3\n" + calibration + "\n")
