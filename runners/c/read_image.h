/* Decode image files to 8-bit grey or RGB, upright. */
#ifndef LIT_OD_READ_IMAGE_H
#define LIT_OD_READ_IMAGE_H

#include "lit_od.h"

/* Read a JPEG, PNG, PPM or PGM file, or a .raw file of bytes of the given shape. The caller frees the pixels. */
bool read_image(const char *path, lit_od_shape raw, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]);

#endif
