/* Open, score and close again and again; print the bytes that are held after the second round and after the last. */
#include <lit_od.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

static int score_all(char **words, int count, char error[LIT_OD_ERROR]) {
    lit_od *model = lit_od_open(words[0], error);
    if (!model) return 0;
    lit_od_shape shape = lit_od_shape_of(model);
    float *map = malloc(sizeof *map * shape.height * shape.width);
    uint8_t *given = calloc(61 * 47, 3);
    int scored = 0;
    for (int turn = 0; map && given && turn < 20; turn++) {
        lit_od_image image = {given, 61, 47, 3}, prepared;
        lit_od_verdict verdict;
        uint8_t *pixels = NULL;
        scored += lit_od_prepare(model, image, &pixels, &prepared, error) &&
                  lit_od_score(model, prepared, &verdict, map, error) && !lit_od_score(model, image, &verdict, map, error);
        free(pixels);
    }
    free(given);
    free(map);
    lit_od_close(model);
    lit_od_close(lit_od_open(words[count - 1], error)); /* which is no model */
    return scored;
}

int main(int count, char **words) {
    char error[LIT_OD_ERROR] = "";
    size_t held = 0;
    for (int round = 0; round < 6; round++) {
        if (score_all(words + 1, count - 1, error) != 20) return fprintf(stderr, "%s\n", error), 2;
        if (round == 1) held = mallinfo2().uordblks;
    }
    printf("%zu %zu\n", held, (size_t)mallinfo2().uordblks);
    return 0;
}
