/* Four threads score one prepared image a hundred times each, and compare. */
#include <lit_od.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static lit_od *model;
static lit_od_image image;
static double wanted;

static void *score(void *alike) {
    char error[LIT_OD_ERROR];
    lit_od_verdict verdict;
    for (int turn = 0; turn < 100; turn++)
        if (lit_od_score(model, image, &verdict, NULL, error) && verdict.score == wanted) ++*(int *)alike;
    return NULL;
}

int main(int count, char **words) {
    char error[LIT_OD_ERROR];
    if (count != 3 || !(model = lit_od_open(words[1], error))) return fprintf(stderr, "%s\n", error), 2;
    lit_od_shape shape = lit_od_shape_of(model);
    size_t size = (size_t)shape.height * shape.width * shape.channels;
    uint8_t *pixels = malloc(size);
    FILE *file = fopen(words[2], "rb");
    if (!pixels || !file || fread(pixels, 1, size, file) != size) return 2;
    fclose(file);
    image = (lit_od_image){pixels, shape.height, shape.width, shape.channels};
    lit_od_verdict verdict;
    if (!lit_od_score(model, image, &verdict, NULL, error)) return fprintf(stderr, "%s\n", error), 2;
    wanted = verdict.score;
    pthread_t threads[4];
    int alike[4] = {0}, sum = 0;
    for (int thread = 0; thread < 4; thread++) pthread_create(&threads[thread], NULL, score, &alike[thread]);
    for (int thread = 0; thread < 4; thread++) {
        pthread_join(threads[thread], NULL);
        sum += alike[thread];
    }
    printf("%d scores, %s\n", sum, sum == 400 ? "all alike" : "some differ");
    free(pixels);
    lit_od_close(model);
    return sum == 400 ? 0 : 1;
}
