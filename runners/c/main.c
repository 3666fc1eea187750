/* Score images: lit-od-score [--prepared] [--maps DIR] MODEL.onnx IMAGE... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lit_od.h"
#include "read_image.h"

static const char USAGE[] =
    "usage: lit-od-score [--prepared] [--maps DIR] MODEL.onnx IMAGE...\n"
    "\n"
    "Scores JPEG, PNG, PPM and PGM files of any size, and .raw files: bytes of prepared pixels. Prints\n"
    "path,score,p_value,is_outlier, a line an image. --prepared takes images as they are, and refuses those of another\n"
    "size than the model's. --maps writes the map of each image into a folder: NAME.f32, float32 in rows.\n"
    "Status 2: a model or an image was refused, as a line on standard error says.\n";

/* Write a path as a field of CSV. */
static void print_path(const char *path) {
    bool quoted = strpbrk(path, ",\"\r\n") != NULL;
    if (quoted) putchar('"');
    for (; *path; path++) {
        if (*path == '"') putchar('"');
        putchar(*path);
    }
    if (quoted) putchar('"');
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool write_map(const char *folder, const char *path, const float *map, size_t pixels, char error[LIT_OD_ERROR]) {
    char place[4096];
    int length = snprintf(place, sizeof place, "%s/%s.f32", folder, name_of(path));
    FILE *file = length > 0 && (size_t)length < sizeof place ? fopen(place, "wb") : NULL;
    bool written = file && fwrite(map, sizeof *map, pixels, file) == pixels;
    if (file && fclose(file)) written = false;
    if (!written) snprintf(error, LIT_OD_ERROR, "its map cannot be written into %s", folder);
    return written;
}

/* Score one image and print its row. */
static bool score_file(const lit_od *model, const char *path, bool prepared, const char *maps, float *map,
                       char error[LIT_OD_ERROR]) {
    lit_od_shape shape = lit_od_shape_of(model);
    lit_od_image image;
    lit_od_verdict verdict;
    uint8_t *pixels, *made = NULL;
    if (!read_image(path, shape, &pixels, &image, error)) return false;
    const char *ending = strrchr(path, '.');
    prepared = prepared || (ending && !strcmp(ending, ".raw"));
    bool fits = (prepared || lit_od_prepare(model, image, &made, &image, error)) &&
                lit_od_score(model, image, &verdict, map, error);
    free(pixels);
    free(made);
    fits = fits && (!map || write_map(maps, path, map, (size_t)shape.height * shape.width, error));
    if (!fits) return false;
    print_path(path);
    printf(",%.17g,%.17g,%s\n", verdict.score, verdict.p_value, verdict.is_outlier ? "true" : "false");
    fflush(stdout);
    return true;
}

static bool share_a_name(char **paths, int count) {
    for (int one = 0; one < count; one++)
        for (int other = 0; other < one; other++)
            if (!strcmp(name_of(paths[one]), name_of(paths[other]))) return true;
    return false;
}

static int refused(const char *line) {
    fprintf(stderr, "lit-od-score: %s\n", line);
    return 2;
}

static int score_files(const lit_od *model, char **paths, int count, bool prepared, const char *maps) {
    lit_od_shape shape = lit_od_shape_of(model);
    if (maps && !shape.has_map) return refused("--maps: this model gives no maps");
    if (maps && share_a_name(paths, count)) return refused("--maps: two images have the same name: score them apart");
    float *map = maps ? malloc(sizeof *map * shape.height * shape.width) : NULL;
    if (maps && !map) return refused("too little memory");
    int status = 0;
    char error[LIT_OD_ERROR];
    puts("path,score,p_value,is_outlier");
    for (int row = 0; row < count; row++)
        if (!score_file(model, paths[row], prepared, maps, map, error)) {
            fprintf(stderr, "lit-od-score: %s: %s\n", paths[row], error);
            status = 2;
        }
    free(map);
    return status;
}

int main(int count, char **words) {
    bool prepared = false;
    const char *maps = NULL;
    int place = 1;
    for (; place < count && !strncmp(words[place], "--", 2); place++) {
        if (!strcmp(words[place], "--help")) return fputs(USAGE, stdout) < 0;
        if (!strcmp(words[place], "--prepared"))
            prepared = true;
        else if (!strcmp(words[place], "--maps") && place + 1 < count)
            maps = words[++place];
        else
            return refused("wanted --prepared, --maps DIR or --help");
    }
    if (count - place < 2) return refused("wanted MODEL.onnx and images; --help says more");
    char error[LIT_OD_ERROR];
    lit_od *model = lit_od_open(words[place], error);
    if (!model) return refused(error);
    int status = score_files(model, words + place + 1, count - place - 1, prepared, maps);
    lit_od_close(model);
    return status;
}
