#include "read_image.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after stdio.h, which it needs */
#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

#define MOST_PIXELS 89478485 /* as lit-od: larger ones are refused, against decompression bombs */

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

static bool refuse(char error[LIT_OD_ERROR], const char *reason) {
    snprintf(error, LIT_OD_ERROR, "%s", reason);
    return false;
}

/* Make room for pixels. */
static bool make(lit_od_image *image, uint8_t **pixels, uint64_t height, uint64_t width, int channels,
                 char error[LIT_OD_ERROR]) {
    if (!height || !width || height > MOST_PIXELS || width > MOST_PIXELS || height * width > MOST_PIXELS)
        return refuse(error, "its size is outside 1 to 89,478,485 pixels");
    *pixels = malloc((size_t)(height * width * channels));
    *image = (lit_od_image){*pixels, (int)height, (int)width, channels};
    return *pixels || refuse(error, "too little memory for its pixels");
}

static uint8_t *slurp(const char *path, size_t *size, char error[LIT_OD_ERROR]) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t room = 0;
    bool whole = file != NULL;
    *size = 0;
    while (whole) {
        if (*size == room) {
            uint8_t *larger = realloc(data, room = room ? 2 * room : 1 << 16);
            if (!larger) break;
            data = larger;
        }
        size_t got = fread(data + *size, 1, room - *size, file);
        *size += got;
        if (!got) break;
    }
    whole = whole && feof(file) && !ferror(file);
    if (!whole) snprintf(error, LIT_OD_ERROR, "cannot be read: %s", strerror(errno));
    if (file) fclose(file);
    if (whole) return data;
    free(data);
    return NULL;
}

/* Read a number of `size` bytes of EXIF, in its order of bytes. */
static uint32_t number(const uint8_t *at, int size, bool little) {
    uint32_t value = 0;
    for (int place = 0; place < size; place++) value = value << 8 | at[little ? size - 1 - place : place];
    return value;
}

/* The orientation that EXIF tells, 1 to 8; 1 where it tells none. */
static int orientation_of(const uint8_t *exif, size_t size) {
    if (size < 8 || (memcmp(exif, "II*\0", 4) && memcmp(exif, "MM\0*", 4))) return 1;
    bool little = exif[0] == 'I';
    size_t start = number(exif + 4, 4, little);
    if (start > size || size - start < 2) return 1;
    uint32_t count = number(exif + start, 2, little);
    const uint8_t *entry = exif + start + 2;
    for (; count-- && (size_t)(entry - exif) + 12 <= size; entry += 12)
        if (number(entry, 2, little) == 0x0112) {
            uint32_t value = number(entry + 8, 2, little);
            return value >= 1 && value <= 8 ? (int)value : 1;
        }
    return 1;
}

/* Turn and mirror an image as its orientation demands. */
static bool upright(int orientation, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    if (orientation == 1) return true;
    bool swapped = orientation > 4, from_right = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
    bool from_bottom = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    int height = swapped ? image->width : image->height, width = swapped ? image->height : image->width;
    uint8_t *turned = malloc((size_t)height * width * image->channels), *to = turned;
    if (!turned) return refuse(error, "too little memory for its pixels");
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int across = from_right ? width - 1 - x : x, along = from_bottom ? height - 1 - y : y;
            int row = swapped ? across : along, column = swapped ? along : across;
            memcpy(to, *pixels + ((size_t)row * image->width + column) * image->channels, image->channels);
            to += image->channels;
        }
    free(*pixels);
    *pixels = turned;
    *image = (lit_od_image){turned, height, width, image->channels};
    return true;
}

typedef struct {
    struct jpeg_error_mgr base; /* first, so that a pointer to it is one to this */
    jmp_buf back;
    bool truncated;
    char message[JMSG_LENGTH_MAX];
} jpeg_failure;

static void jpeg_fail(j_common_ptr common) {
    jpeg_failure *failure = (jpeg_failure *)common->err;
    common->err->format_message(common, failure->message);
    longjmp(failure->back, 1);
}

static void jpeg_warn(j_common_ptr common, int level) {
    if (level < 0 && common->err->msg_code == JWRN_JPEG_EOF) ((jpeg_failure *)common->err)->truncated = true;
}

static bool read_jpeg(bytes file, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    struct jpeg_decompress_struct jpeg;
    jpeg_failure failure = {.truncated = false};
    jpeg.err = jpeg_std_error(&failure.base);
    failure.base.error_exit = jpeg_fail;
    failure.base.emit_message = jpeg_warn;
    if (setjmp(failure.back)) {
        jpeg_destroy_decompress(&jpeg);
        return refuse(error, failure.message);
    }
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, file.data, (unsigned long)file.size);
    jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&jpeg, TRUE);
    int orientation = 1;
    for (jpeg_saved_marker_ptr marker = jpeg.marker_list; marker; marker = marker->next)
        if (marker->data_length > 6 && !memcmp(marker->data, "Exif\0\0", 6))
            orientation = orientation_of(marker->data + 6, marker->data_length - 6);
    bool fits = jpeg.num_components == 1 || jpeg.num_components == 3 || refuse(error, "a JPEG of four colours: save it as RGB");
    if (fits) jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    if (fits && make(image, pixels, jpeg.image_height, jpeg.image_width, jpeg.num_components, error)) {
        jpeg_start_decompress(&jpeg);
        size_t line = (size_t)image->width * image->channels;
        while (jpeg.output_scanline < jpeg.output_height) {
            JSAMPROW row = *pixels + jpeg.output_scanline * line;
            jpeg_read_scanlines(&jpeg, &row, 1);
        }
        jpeg_finish_decompress(&jpeg);
        fits = !failure.truncated || refuse(error, "the JPEG file is truncated");
    } else
        fits = false;
    jpeg_destroy_decompress(&jpeg);
    return fits && upright(orientation, pixels, image, error);
}

static void png_fail(png_structp png, png_const_charp message) {
    refuse(png_get_error_ptr(png), message);
    png_longjmp(png, 1);
}

static void png_ignore(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static void png_take(png_structp png, png_bytep to, size_t count) {
    bytes *left = png_get_io_ptr(png);
    if (count > left->size) png_error(png, "the PNG file is truncated");
    memcpy(to, left->data, count);
    left->data += count;
    left->size -= count;
}

/* Lay a row with alpha over white, in place, as Pillow does. */
static void over_white(uint8_t *row, int width, int channels) {
    uint8_t *to = row;
    for (const uint8_t *from = row; width--; from += channels + 1)
        for (int c = 0; c < channels; c++) {
            uint32_t mixed = (from[c] * from[channels] + 255u * (255u - from[channels])) * 128 + (0x80 << 7);
            *to++ = (uint8_t)((((mixed >> 8) + mixed) >> 8) >> 7);
        }
}

/* Decode what `png` reads; longjmp comes back to the caller. */
static bool decode_png(png_structp png, png_infop info, uint8_t **pixels, lit_od_image *image,
                       int *orientation, char error[LIT_OD_ERROR]) {
    png_read_info(png, info);
    int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    if (depth == 16 && !(colour & PNG_COLOR_MASK_COLOR)) return refuse(error, "16-bit grey: save it with 8 bits");
    png_set_expand(png);
    png_set_strip_16(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    int channels = png_get_channels(png, info), seen = channels > 2 ? 3 : 1;
    size_t line = png_get_rowbytes(png, info);
    if (!make(image, pixels, png_get_image_height(png, info), png_get_image_width(png, info), channels, error)) return false;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < image->height; y++) png_read_row(png, *pixels + y * line, NULL);
    png_read_end(png, info);
    png_uint_32 size = 0;
    png_bytep exif = NULL;
    if (png_get_eXIf_1(png, info, &size, &exif)) *orientation = orientation_of(exif, size);
    if (channels == seen) return true;
    for (int y = 0; y < image->height; y++) {
        over_white(*pixels + y * line, image->width, seen);
        memmove(*pixels + (size_t)y * image->width * seen, *pixels + y * line, (size_t)image->width * seen);
    }
    image->channels = seen;
    return true;
}

static bool read_png(bytes file, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, error, png_fail, png_ignore);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return refuse(error, "too little memory for its pixels");
    }
    int orientation = 1;
    volatile bool fits = false;
    if (!setjmp(png_jmpbuf(png))) {
        png_set_read_fn(png, &file, png_take);
        fits = decode_png(png, info, pixels, image, &orientation, error);
    }
    png_destroy_read_struct(&png, &info, NULL);
    return fits && upright(orientation, pixels, image, error);
}

/* Read the next number of a header, past spaces and comments; -1 where there is none. */
static long header_number(bytes *left) {
    while (left->size && (isspace(*left->data) || *left->data == '#')) {
        if (*left->data == '#')
            while (left->size > 1 && *left->data != '\n') left->data++, left->size--;
        left->data++, left->size--;
    }
    long value = -1;
    while (left->size && isdigit(*left->data) && value < MOST_PIXELS) {
        value = 10 * (value < 0 ? 0 : value) + (*left->data - '0');
        left->data++, left->size--;
    }
    return value;
}

static bool read_ppm(bytes file, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    int channels = file.data[1] == '6' ? 3 : 1;
    bytes left = {file.data + 2, file.size - 2};
    long width = header_number(&left), height = header_number(&left), white = header_number(&left);
    if (width < 1 || height < 1 || white < 1) return refuse(error, "its header is damaged");
    if (white != 255) return refuse(error, "wanted a maximum of 255 in its header");
    if (!make(image, pixels, (uint64_t)height, (uint64_t)width, channels, error)) return false;
    size_t size = (size_t)height * width * channels;
    if (left.size < size + 1) return refuse(error, "the file is truncated");
    memcpy(*pixels, left.data + 1, size);
    return true;
}

static bool read_raw(bytes file, lit_od_shape raw, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    size_t size = (size_t)raw.height * raw.width * raw.channels;
    if (file.size != size) {
        snprintf(error, LIT_OD_ERROR, "wanted %d x %d x %d (h x w x c) raw bytes, got %zu bytes", raw.height, raw.width,
                 raw.channels, file.size);
        return false;
    }
    if (!make(image, pixels, raw.height, raw.width, raw.channels, error)) return false;
    memcpy(*pixels, file.data, size);
    return true;
}

bool read_image(const char *path, lit_od_shape raw, uint8_t **pixels, lit_od_image *image, char error[LIT_OD_ERROR]) {
    bytes file = {NULL, 0};
    uint8_t *data = slurp(path, &file.size, error);
    const char *ending = strrchr(path, '.');
    bool fits = data != NULL;
    file.data = data;
    *pixels = NULL;
    if (fits && ending && !strcmp(ending, ".raw"))
        fits = read_raw(file, raw, pixels, image, error);
    else if (fits && file.size > 3 && data[0] == 0xFF && data[1] == 0xD8)
        fits = read_jpeg(file, pixels, image, error);
    else if (fits && file.size > 8 && !png_sig_cmp(data, 0, 8))
        fits = read_png(file, pixels, image, error);
    else if (fits && file.size > 3 && data[0] == 'P' && (data[1] == '5' || data[1] == '6'))
        fits = read_ppm(file, pixels, image, error);
    else if (fits)
        fits = refuse(error, "is no JPEG, PNG, PPM or PGM file, nor named .raw");
    free(data);
    if (!fits) {
        free(*pixels);
        *pixels = NULL;
    }
    return fits;
}
