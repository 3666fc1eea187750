/* The library: a session of ONNX Runtime, its checks and its runs. */
#define _POSIX_C_SOURCE 200112L /* setenv */
#include "lit_od.h"

#include <onnxruntime_c_api.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preparation.h"

static const char *const OUTPUTS[] = {"score", "p_value", "is_outlier", "map"};

struct lit_od {
    const OrtApi *api;
    OrtEnv *environment;
    OrtSession *session;
    OrtMemoryInfo *memory;
    preparation wanted;
    bool has_map;
};

/* ONNX Runtime's environment writes and sends telemetry from its beginning unless this is set. Set before main, no thread
 * reads the environment meanwhile. */
__attribute__((constructor)) static void disable_telemetry(void) { setenv("ORT_DISABLE_TELEMETRY", "1", 0); }

static bool refuse(char error[LIT_OD_ERROR], const char *format, ...) {
    va_list words;
    va_start(words, format);
    vsnprintf(error, LIT_OD_ERROR, format, words);
    va_end(words);
    error[strcspn(error, "\r\n")] = 0; /* ONNX Runtime tells more than one line */
    return false;
}

/* True if the call succeeded; else its message is told. */
static bool done(const OrtApi *api, OrtStatus *status, const char *doing, char error[LIT_OD_ERROR]) {
    if (!status) return true;
    refuse(error, "%s: %s", doing, api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return false;
}

/* True if the input is uint8 (n, h, w, c) of fixed sides, which are told. */
static bool read_input(const lit_od *model, int64_t shape[4]) {
    const OrtApi *api = model->api;
    OrtTypeInfo *type = NULL;
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    OrtStatus *status = api->SessionGetInputTypeInfo(model->session, 0, &type);
    if (!status) status = api->CastTypeInfoToTensorInfo(type, &tensor);
    if (!status && tensor) status = api->GetTensorElementType(tensor, &element);
    if (!status && tensor) status = api->GetDimensionsCount(tensor, &rank);
    if (!status && tensor && rank == 4) status = api->GetDimensions(tensor, shape, rank);
    bool fits = !status && element == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 && rank == 4;
    if (status) api->ReleaseStatus(status);
    if (type) api->ReleaseTypeInfo(type);
    return fits;
}

/* True if the names are those of a model file. */
static bool has_names(lit_od *model, OrtAllocator *allocator) {
    const OrtApi *api = model->api;
    size_t inputs = 0, outputs = 0;
    OrtStatus *status = api->SessionGetInputCount(model->session, &inputs);
    if (!status) status = api->SessionGetOutputCount(model->session, &outputs);
    bool fits = !status && inputs == 1 && (outputs == 3 || outputs == 4);
    for (size_t place = 0; fits && place <= outputs; place++) { /* the outputs, and then the input */
        char *name = NULL;
        status = place < outputs ? api->SessionGetOutputName(model->session, place, allocator, &name)
                                 : api->SessionGetInputName(model->session, 0, allocator, &name);
        fits = !status && !strcmp(name, place < outputs ? OUTPUTS[place] : "image");
        if (name) allocator->Free(allocator, name);
    }
    if (status) api->ReleaseStatus(status);
    model->has_map = outputs == 4;
    return fits;
}

/* Read the manifest, and compare it with the graph. */
static bool read_model(lit_od *model, const char *path, char error[LIT_OD_ERROR]) {
    const OrtApi *api = model->api;
    OrtAllocator *allocator = NULL;
    OrtModelMetadata *metadata = NULL;
    char *manifest = NULL;
    int64_t shape[4] = {0};
    bool fits = done(api, api->GetAllocatorWithDefaultOptions(&allocator), path, error) &&
                done(api, api->SessionGetModelMetadata(model->session, &metadata), path, error) &&
                done(api, api->ModelMetadataLookupCustomMetadataMap(metadata, allocator, "lit_od", &manifest), path, error);
    if (fits && (!manifest || !has_names(model, allocator) || !read_input(model, shape)))
        fits = refuse(error, "%s: is an ONNX file, but none that lit-od compiled", path);
    const char *unknown = fits ? read_preparation(manifest, &model->wanted) : NULL;
    if (unknown) fits = refuse(error, "%s: its preparation of images is of another lit-od: %s", path, unknown);
    const preparation *wanted = &model->wanted;
    bool sized = wanted->in_graph ? shape[1] < 0 && shape[2] < 0 : shape[1] == wanted->height && shape[2] == wanted->width;
    if (fits && (!sized || shape[3] != wanted->channels))
        fits = refuse(error, "%s: its graph takes other images than its manifest says", path);
    if (manifest) allocator->Free(allocator, manifest);
    if (metadata) api->ReleaseModelMetadata(metadata);
    return fits;
}

lit_od *lit_od_open(const char *path, char error[LIT_OD_ERROR]) {
    const OrtApi *api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    lit_od *model = calloc(1, sizeof *model);
    if (!api || !model) {
        refuse(error, api ? "too little memory" : "the ONNX Runtime at hand is older than the headers of this build");
        free(model);
        return NULL;
    }
    model->api = api;
    FILE *file = fopen(path, "rb"); /* for a clearer line than ONNX Runtime's */
    if (!file) {
        refuse(error, "%s: no such file, or it cannot be read", path);
        free(model);
        return NULL;
    }
    fclose(file);
    OrtSessionOptions *options = NULL;
    bool fits = done(api, api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "lit_od", &model->environment), path, error) &&
                done(api, api->DisableTelemetryEvents(model->environment), path, error) &&
                done(api, api->CreateSessionOptions(&options), path, error) &&
                done(api, api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"), path, error) &&
                done(api, api->CreateSession(model->environment, path, options, &model->session), path, error) &&
                done(api, api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &model->memory), path, error) &&
                read_model(model, path, error);
    if (options) api->ReleaseSessionOptions(options);
    if (fits) return model;
    lit_od_close(model);
    return NULL;
}

void lit_od_close(lit_od *model) {
    if (!model) return;
    if (model->memory) model->api->ReleaseMemoryInfo(model->memory);
    if (model->session) model->api->ReleaseSession(model->session);
    if (model->environment) model->api->ReleaseEnv(model->environment);
    free(model);
}

lit_od_shape lit_od_shape_of(const lit_od *model) {
    const preparation *wanted = &model->wanted;
    return (lit_od_shape){wanted->height, wanted->width, wanted->channels, wanted->in_graph, model->has_map};
}

bool lit_od_prepare(const lit_od *model, lit_od_image image, uint8_t **pixels, lit_od_image *prepared,
                    char error[LIT_OD_ERROR]) {
    return prepare_image(&model->wanted, image, pixels, prepared, error);
}

/* Copy an output's values, if it has the wanted number of them. */
static bool copy(const lit_od *model, OrtValue *value, void *to, size_t count, size_t size, char error[LIT_OD_ERROR]) {
    const OrtApi *api = model->api;
    OrtTensorTypeAndShapeInfo *shape = NULL;
    void *data = NULL;
    size_t found = 0;
    bool read = done(api, api->GetTensorTypeAndShape(value, &shape), "reading", error) &&
                done(api, api->GetTensorShapeElementCount(shape, &found), "reading", error) &&
                done(api, api->GetTensorMutableData(value, &data), "reading", error);
    if (shape) api->ReleaseTensorTypeAndShapeInfo(shape);
    if (read && found != count) read = refuse(error, "the model gives %zu values for one image, wanted %zu", found, count);
    if (read) memcpy(to, data, count * size);
    return read;
}

bool lit_od_score(const lit_od *model, lit_od_image prepared, lit_od_verdict *verdict, float *map,
                  char error[LIT_OD_ERROR]) {
    const OrtApi *api = model->api;
    int channels = model->wanted.channels, height = prepared.height, width = prepared.width;
    bool sized = model->wanted.in_graph ? height > 0 && width > 0
                                        : height == model->wanted.height && width == model->wanted.width;
    if (!prepared.pixels || !sized || prepared.channels != channels)
        return refuse(error, "wanted a prepared image of %d x %d x %d (h x w x c), got %d x %d x %d",
                      model->wanted.height, model->wanted.width, channels, height, width, prepared.channels);
    if (map && !model->has_map) return refuse(error, "this model gives no maps");
    int64_t shape[4] = {1, height, width, channels};
    size_t places = (size_t)model->wanted.height * model->wanted.width;
    OrtValue *image = NULL, *found[4] = {NULL};
    const char *const input = "image";
    bool scored =
        /* ONNX Runtime only reads its inputs */
        done(api, api->CreateTensorWithDataAsOrtValue(model->memory, (void *)(uintptr_t)prepared.pixels,
                                                      (size_t)height * width * channels, shape, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &image),
             "scoring", error) &&
        done(api, api->Run(model->session, NULL, &input, (const OrtValue *const *)&image, 1, OUTPUTS, map ? 4 : 3, found),
             "scoring", error) &&
        copy(model, found[0], &verdict->score, 1, sizeof(double), error) &&
        copy(model, found[1], &verdict->p_value, 1, sizeof(double), error) &&
        copy(model, found[2], &verdict->is_outlier, 1, sizeof(bool), error) &&
        (!map || copy(model, found[3], map, places, sizeof(float), error));
    for (int place = 0; place < 4; place++)
        if (found[place]) api->ReleaseValue(found[place]);
    if (image) api->ReleaseValue(image);
    return scored;
}
