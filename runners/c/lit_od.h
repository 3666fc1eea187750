/* Score images with a model file of lit-od, by ONNX Runtime's C API.
 *
 *     char error[LIT_OD_ERROR];
 *     lit_od *model = lit_od_open("model.onnx", error);
 *     lit_od_verdict verdict;
 *     if (!model || !lit_od_score(model, frame, &verdict, NULL, error)) puts(error);
 *     lit_od_close(model);
 *
 * Any number of threads may prepare and score with one model at a time. What returns false or NULL has written one line
 * into `error`, LIT_OD_ERROR bytes of the caller's.
 */
#ifndef LIT_OD_H
#define LIT_OD_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIT_OD_ERROR 512

typedef struct lit_od lit_od;

/* Pixels in rows from the top, without gaps: grey (1 channel) or RGB (3). */
typedef struct {
    const uint8_t *pixels;
    int height, width, channels;
} lit_od_image;

typedef struct {
    double score; /* higher is more outlying */
    double p_value;
    bool is_outlier;
} lit_od_verdict;

/* Prepared images, and maps where the model gives them. A model that resizes in its graph takes images of any size. */
typedef struct {
    int height, width, channels;
    bool any_size, has_map;
} lit_od_shape;

/* Open a model file; NULL if it cannot be read, or lit-od did not compile it. */
lit_od *lit_od_open(const char *path, char error[LIT_OD_ERROR]);

void lit_od_close(lit_od *model);

lit_od_shape lit_od_shape_of(const lit_od *model);

/* Convert an upright image to the model's channels, and crop and resize it as lit-od does, unless the model's graph does.
 * The caller frees `*pixels`, which `prepared` tells of. */
bool lit_od_prepare(const lit_od *model, lit_od_image image, uint8_t **pixels, lit_od_image *prepared,
                    char error[LIT_OD_ERROR]);

/* Score a prepared image; another size or number of channels is refused. `map` takes height * width floats of the
 * model's shape, or is NULL. */
bool lit_od_score(const lit_od *model, lit_od_image prepared, lit_od_verdict *verdict, float *map,
                  char error[LIT_OD_ERROR]);

#ifdef __cplusplus
}
#endif
#endif
