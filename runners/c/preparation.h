/* How a model wants its images, as its manifest says. */
#ifndef LIT_OD_PREPARATION_H
#define LIT_OD_PREPARATION_H

#include "lit_od.h"

typedef struct {
    int height, width, channels;
    bool in_graph; /* the model crops and resizes */
    bool bicubic, luminosity;
    int crop_height, crop_width; /* 0 for none */
    double crop_fraction;        /* 0 for none */
} preparation;

/* Read the manifest; NULL, or the first thing in it that this program does not know. */
const char *read_preparation(const char *manifest, preparation *found);

/* As lit_od_prepare. */
bool prepare_image(const preparation *wanted, lit_od_image image, uint8_t **pixels, lit_od_image *prepared,
                   char error[LIT_OD_ERROR]);

#endif
