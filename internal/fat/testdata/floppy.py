"""Ironic's own floppy with parameters.txt: floppy.py FILE NAME=VALUE..."""
import sys

from ironic.common import images

images.create_vfat_image(sys.argv[1], parameters=dict(p.split("=", 1) for p in sys.argv[2:]),
                         fs_size_kib=1440)
