"""What can be wrong with an image.

ImageError
├── InvalidReference     the name is none
├── ImageNotFound        nothing of that name is here
├── BlobNotFound         the bytes of a digest are not here, or it is no digest
├── DamagedContent       bytes are not what their digest or size says
├── InvalidLayer         a layer is no tar of a filesystem, or goes beyond a bound
├── InvalidTree          a tree on this machine cannot become a layer
├── ConversionFailed     a converter ended without a result: not the layer's fault, and worth a second try
├── InvalidImageConfig   a field of the config means nothing
└── InvalidLayout        the source is no OCI layout
"""

from __future__ import annotations


class ImageError(Exception):
    """Base of all; `reason` stands in the condition."""

    reason = "ImageInvalid"


class InvalidReference(ImageError):
    """The reference does not follow the OCI grammar."""

    reason = "InvalidImageName"


class ImageNotFound(ImageError):
    """No image of that name is in the store."""

    reason = "ImageNotFound"


class BlobNotFound(ImageError):
    """No blob of that digest is in the store."""

    reason = "BlobNotFound"


class DamagedContent(ImageError):
    """Content does not match its digest or size; the message names the digest."""

    reason = "ImageDamaged"


class InvalidLayer(ImageError):
    """A layer cannot be converted."""


class InvalidTree(ImageError):
    """What a sandbox wrote cannot become a layer; the message names the path."""


class ConversionFailed(ImageError):
    """A converter died, or could not be started."""

    reason = "ConversionFailed"


class InvalidImageConfig(ImageError):
    """A field of the image's config is not usable; the message names it."""


class InvalidLayout(ImageError):
    """The directory or tar is no OCI layout."""
