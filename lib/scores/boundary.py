"""Boundary IoU of a segmentation: IoU of what lies near the classes' contours; needs no PyTorch.

Cheng, Girshick, Dollár, Berg, Kirillov: Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR
2021: |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|. Of a class, G are its pixels in the label, P those in the
prediction, and G_d ∩ G the pixels of G within d of G's contour: those that d erosions of G by 3 x 3 pixels take away.
As in the authors' code, d is 2 % of the image's diagonal, and the image's border counts as contour. Intersections and
unions are summed over all images, as those of IoU are.

Pixels that the label ignores count nowhere: they are of no class in the label and in the prediction, so that a
prediction that is right where it counts scores 1, whatever it says elsewhere.
"""

import cv2
import numpy as np

DILATION_RATIO = 0.02
"""d as a part of the image's diagonal."""
NONE = 255
"""Id of a pixel that is of no class."""


def boundary_counts(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count one image's pixels near the contours of each class.

    Args:
        prediction, label: train ids uint8 [H, W]; ``num_classes`` and more are of no class. What is so in the label is
            ignored; what is so in the prediction alone is wrong, and no class's false positive.
        num_classes: K, at most 254.

    Returns:
        int64 [3, K]: of each class, the pixels near the contour in both, in the prediction, in the label.
    """
    prediction = np.where(label < num_classes, prediction, np.uint8(NONE))
    width = boundary_width(*label.shape)
    of_label, of_prediction = (
        np.where(boundary_region(ids, width), np.minimum(ids, num_classes), num_classes) for ids in (label, prediction)
    )
    pairs = of_label.astype(np.uint16) * (num_classes + 1) + of_prediction
    counts = np.bincount(pairs.ravel(), minlength=(num_classes + 1) ** 2).reshape(num_classes + 1, num_classes + 1)
    return np.stack([counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)])[:, :num_classes].astype(np.int64)


def boundary_width(height: int, width: int) -> int:
    """d in pixels, at least 1."""
    return max(1, round(DILATION_RATIO * float(np.hypot(height, width))))


def boundary_region(ids: np.ndarray, width: int) -> np.ndarray:
    """Which pixels lie within ``width`` of the contour of their own class, bool [H, W], for all classes at once.

    They are those around which (2 ``width`` + 1)^2 pixels are not all of one class and inside the image.
    """
    # A pixel touches the contour if the least and the largest id around it differ; outside the image lies 0 and 255.
    square = np.ones((3, 3), np.uint8)
    least = cv2.erode(ids, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    largest = cv2.dilate(ids, square, borderType=cv2.BORDER_CONSTANT, borderValue=255)
    contour = (least != largest).view(np.uint8)
    # All ways to another class lead over such pixels: within width - 1 of one means within width of the other class.
    return cv2.dilate(contour, np.ones((2 * width - 1, 2 * width - 1), np.uint8)).view(bool)
