"""Drawings of networks and ideas, made from the objects that they explain.

Shapes and channels are recorded while an image passes through the network, so a drawing always
shows the network at hand. Introduced in `00_start_here` (data flow, split, confusion areas),
`02_palm_training` (U-Net), `03_rsna_finetuning` (MobileNetV3) and `05_cardiac_aspp` (ASPP).
"""

from .dilations import Branch, aspp, branches, receptive_field_of_encoder
from .ideas import CALLS, confusion_areas, data_flow, split
from .passages import Passage, Record, record, shape_table
from .u_shaped import mobilenet_unet, unet

__all__ = [
    "CALLS",
    "Branch",
    "Passage",
    "Record",
    "aspp",
    "branches",
    "confusion_areas",
    "data_flow",
    "mobilenet_unet",
    "receptive_field_of_encoder",
    "record",
    "shape_table",
    "split",
    "unet",
]
