/* Convert, crop and resize as Pillow does, to the last bit: in fixed-point weights of 22 bits. */
#include "preparation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BITS 22

/* The weights of each output pixel along one side: `count` of them from input pixel `first`. */
typedef struct {
    int *first, *count, *weights;
    int most;
} filter;

/* Where the value of a key stands in the manifest's "preparation", whose JSON has no spaces; NULL if it is absent. */
static const char *value_of(const char *manifest, const char *key) {
    const char *part = strstr(manifest, "\"preparation\":{");
    if (!part) return NULL;
    part += strlen("\"preparation\":{");
    const char *end = strchr(part, '}');
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(part, quoted);
    return found && end && found < end ? found + strlen(quoted) : NULL;
}

static bool says(const char *value, const char *text) { return value && !strncmp(value, text, strlen(text)); }

/* Read a number whatever the locale's decimal point is. */
static double decimal(const char *text) {
    double value = 0, scale = 1;
    for (; *text >= '0' && *text <= '9'; text++) value = 10 * value + (*text - '0');
    if (*text == '.')
        for (text++; *text >= '0' && *text <= '9'; text++) {
            value = 10 * value + (*text - '0');
            scale *= 10;
        }
    int exponent = *text == 'e' || *text == 'E' ? atoi(text + 1) : 0;
    return value / scale * pow(10, exponent);
}

const char *read_preparation(const char *manifest, preparation *found) {
    preparation made = {0};
    const char *size = value_of(manifest, "size"), *crop = value_of(manifest, "crop");
    const char *fraction = value_of(manifest, "crop_fraction"), *resize = value_of(manifest, "resize");
    const char *mode = value_of(manifest, "mode"), *grey = value_of(manifest, "grey");
    if (value_of(manifest, "overlap")) return "tiles, which runners/python takes";
    if (!size || sscanf(size, "[%d,%d]", &made.height, &made.width) != 2) return "size";
    if (!says(mode, "\"grey\"") && !says(mode, "\"rgb\"")) return "mode";
    made.in_graph = says(resize, "\"graph\"") || says(resize, "\"graph-bicubic\"");
    if (!made.in_graph && !says(resize, "\"bilinear\"") && !says(resize, "\"bicubic\"")) return "resize";
    if (!says(grey, "\"pillow\"") && !says(grey, "\"luminosity\"")) return "grey";
    if (crop && !says(crop, "null") && sscanf(crop, "[%d,%d]", &made.crop_height, &made.crop_width) != 2) return "crop";
    made.channels = says(mode, "\"grey\"") ? 1 : 3;
    made.bicubic = says(resize, "\"bicubic\"");
    made.luminosity = says(grey, "\"luminosity\"");
    made.crop_fraction = fraction && !says(fraction, "null") ? decimal(fraction) : 0;
    *found = made;
    return NULL;
}

/* Convert the part of an image that lies in a box of whole pixels to the wanted number of channels. */
static uint8_t *cut_out(const preparation *wanted, lit_od_image image, int left, int top, int width, int height) {
    int channels = wanted->channels;
    uint8_t *made = malloc((size_t)width * height * channels), *to = made;
    if (!made) return NULL;
    for (int y = 0; y < height; y++) {
        const uint8_t *from = image.pixels + ((size_t)(top + y) * image.width + left) * image.channels;
        for (int x = 0; x < width; x++, from += image.channels) {
            if (image.channels == channels)
                for (int c = 0; c < channels; c++) *to++ = from[c];
            else if (channels == 3)
                for (int c = 0; c < 3; c++) *to++ = from[0];
            else if (wanted->luminosity)
                *to++ = (uint8_t)rintf(0.21f * from[0] + 0.72f * from[1] + 0.07f * from[2]);
            else
                *to++ = (uint8_t)((19595 * from[0] + 38470 * from[1] + 7471 * from[2] + 0x8000) >> 16);
        }
    }
    return made;
}

static double weight_at(double x, bool bicubic) {
    x = fabs(x);
    if (!bicubic) return x < 1 ? 1 - x : 0;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

static void free_filter(filter *made) {
    free(made->first);
    free(made->count);
    free(made->weights);
}

/* Make the weights that bring the pixels from `start` to `end`, of `size`, to `wanted` ones. */
static bool make_filter(filter *made, int size, float start, float end, int wanted, bool bicubic) {
    double scale = (double)(end - start) / wanted, stretch = scale < 1 ? 1 : scale;
    double reach = (bicubic ? 2 : 1) * stretch;
    made->most = (int)ceil(reach) * 2 + 1;
    made->first = malloc(sizeof(int) * wanted);
    made->count = malloc(sizeof(int) * wanted);
    made->weights = malloc(sizeof(int) * wanted * made->most);
    double *exact = malloc(sizeof(double) * made->most);
    bool whole = made->first && made->count && made->weights && exact;
    for (int place = 0; whole && place < wanted; place++) {
        double centre = start + (place + 0.5) * scale, sum = 0;
        int first = (int)(centre - reach + 0.5), last = (int)(centre + reach + 0.5);
        first = first < 0 ? 0 : first;
        last = last > size ? size : last;
        for (int x = first; x < last; x++) sum += exact[x - first] = weight_at((x - centre + 0.5) * (1 / stretch), bicubic);
        for (int x = 0; x < last - first; x++) {
            double weight = (sum != 0 ? exact[x] / sum : exact[x]) * (1 << BITS);
            made->weights[place * made->most + x] = (int)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        made->first[place] = first;
        made->count[place] = last - first;
    }
    free(exact);
    return whole;
}

/* Filter one side: `step` lies between its pixels, `lines` runs of `line` bytes each are filtered alike. */
static void apply(const filter *with, int wanted, const uint8_t *from, uint8_t *to, int lines, size_t from_line,
                  size_t to_line, int step) {
    for (int y = 0; y < lines; y++)
        for (int place = 0; place < wanted; place++) {
            const int *weights = with->weights + place * with->most;
            for (int c = 0; c < step; c++) {
                const uint8_t *pixel = from + y * from_line + (size_t)with->first[place] * step + c;
                int sum = 1 << (BITS - 1);
                for (int x = 0; x < with->count[place]; x++, pixel += step) sum += *pixel * weights[x];
                sum >>= BITS;
                to[y * to_line + (size_t)place * step + c] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
            }
        }
}

/* Resize a box (left, top, right, bottom) of an image to the wanted size. */
static bool resize(const preparation *wanted, const uint8_t *from, int height, int width, const float box[4],
                   uint8_t *to) {
    int channels = wanted->channels, saved = height - wanted->height;
    bool down_first = saved > 0 && saved > 2 * (width - wanted->width); /* as Pillow chooses, for it is faster */
    size_t row = (size_t)wanted->width * channels, whole_row = (size_t)width * channels;
    filter across = {0}, down = {0};
    uint8_t *between = malloc(down_first ? whole_row * wanted->height : row * height);
    bool made = between && make_filter(&across, width, box[0], box[2], wanted->width, wanted->bicubic) &&
                make_filter(&down, height, box[1], box[3], wanted->height, wanted->bicubic);
    if (made && down_first) {
        apply(&down, wanted->height, from, between, 1, 0, 0, (int)whole_row);
        apply(&across, wanted->width, between, to, wanted->height, whole_row, row, channels);
    } else if (made) {
        apply(&across, wanted->width, from, between, height, whole_row, row, channels);
        apply(&down, wanted->height, between, to, 1, 0, 0, (int)row);
    }
    free(between);
    free_filter(&across);
    free_filter(&down);
    return made;
}

/* Left, top, right and bottom of the part of an image that is kept. */
static bool crop_box(const preparation *wanted, lit_od_image image, double box[4], char error[LIT_OD_ERROR]) {
    double left = 0, top = 0, right = image.width, bottom = image.height;
    if (wanted->in_graph) { /* which crops too */
    } else if (wanted->crop_height) {
        if (image.height < wanted->crop_height || image.width < wanted->crop_width) {
            snprintf(error, LIT_OD_ERROR, "a crop of %d x %d (h x w) needs a larger image than %d x %d",
                     wanted->crop_height, wanted->crop_width, image.height, image.width);
            return false;
        }
        left = (image.width - wanted->crop_width) / 2;
        top = (image.height - wanted->crop_height) / 2;
        right = left + wanted->crop_width;
        bottom = top + wanted->crop_height;
    } else if (wanted->crop_fraction > 0) {
        double tall = (double)image.height / wanted->height, wide = (double)image.width / wanted->width;
        double scale = wanted->crop_fraction * fmin(tall, wide);
        left = fmax((image.width - wanted->width * scale) / 2, 0);
        top = fmax((image.height - wanted->height * scale) / 2, 0);
        right = image.width - left;
        bottom = image.height - top;
    }
    box[0] = left, box[1] = top, box[2] = right, box[3] = bottom;
    return true;
}

bool prepare_image(const preparation *wanted, lit_od_image image, uint8_t **pixels, lit_od_image *prepared,
                   char error[LIT_OD_ERROR]) {
    *pixels = NULL;
    if (!image.pixels || image.height < 1 || image.width < 1 || (image.channels != 1 && image.channels != 3)) {
        snprintf(error, LIT_OD_ERROR, "an image has a height, a width and 1 or 3 channels, got %d x %d x %d",
                 image.height, image.width, image.channels);
        return false;
    }
    double kept[4];
    if (!crop_box(wanted, image, kept, error)) return false;
    int x = (int)floor(kept[0]), y = (int)floor(kept[1]), width = (int)ceil(kept[2]) - x, height = (int)ceil(kept[3]) - y;
    float box[4] = {(float)(kept[0] - x), (float)(kept[1] - y), (float)(kept[2] - x), (float)(kept[3] - y)};
    bool same = width == wanted->width && height == wanted->height && !box[0] && !box[1] && box[2] == width &&
                box[3] == height;
    uint8_t *part = cut_out(wanted, image, x, y, width, height);
    if (part && !same && !wanted->in_graph) {
        *pixels = malloc((size_t)wanted->height * wanted->width * wanted->channels);
        if (*pixels && !resize(wanted, part, height, width, box, *pixels)) {
            free(*pixels);
            *pixels = NULL;
        }
        free(part);
        height = wanted->height;
        width = wanted->width;
    } else
        *pixels = part;
    *prepared = (lit_od_image){*pixels, height, width, wanted->channels};
    if (!*pixels) snprintf(error, LIT_OD_ERROR, "too little memory to prepare %d x %d pixels", image.height, image.width);
    return *pixels != NULL;
}
