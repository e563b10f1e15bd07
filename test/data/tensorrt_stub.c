/* The symbols that TensorRT's Python bindings need from its libraries, without TensorRT.
 *
 * Every object asked for is NULL, as real libraries answer where they cannot start (no driver, no
 * GPU). The names are those that `nm -D --undefined-only` shows in the bindings' own library.
 */
#include <stddef.h>

#define GIVES_NULL(name) void *name(void) { return NULL; }

/* libnvinfer */
GIVES_NULL(createInferBuilder_INTERNAL)
GIVES_NULL(createInferRefitter_INTERNAL)
GIVES_NULL(createInferRuntime_INTERNAL)
GIVES_NULL(getBuilderPluginRegistry)
GIVES_NULL(getPluginRegistry)

/* libnvinfer_plugin */
int initLibNvInferPlugins(void) { return 1; }

/* libnvonnxparser */
GIVES_NULL(createNvOnnxParser_INTERNAL)
GIVES_NULL(createNvOnnxParserRefitter_INTERNAL)
int getNvOnnxParserVersion(void) { return 0; }

/* libnvparsers, in 8 only: C++ functions of the Caffe and UFF parsers */
GIVES_NULL(_ZN11nvuffparser15createUffParserEv)
GIVES_NULL(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
GIVES_NULL(_ZN14nvcaffeparser117createCaffeParserEv)
GIVES_NULL(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
