/* The symbols that TensorRT's Python bindings need from its libraries, without TensorRT.
 *
 * Every object asked for is NULL, as real libraries answer where they cannot start (no driver, no
 * GPU), and as they do, the two that get a logger tell it why. The names are those that
 * `nm -D --undefined-only` shows in the bindings' own library.
 */
#include <stddef.h>

#define GIVES_NULL(name) void *name(void) { return NULL; }

/* ILogger::log(severity, message) is the first entry of ILogger's virtual table, in 11 the fifth. */
typedef void (*Log)(void *logger, int severity, const char *message);
enum { ERROR = 1, WARNING = 2 };

static void *refuse(void *logger, int version) {
  Log log = (*(Log **)logger)[version >= 110000 ? 4 : 0];
  log(logger, ERROR, "stub:\nno driver");
  log(logger, WARNING, "stub: nothing that matters");
  return NULL;
}

/* libnvinfer */
void *createInferBuilder_INTERNAL(void *logger, int version) { return refuse(logger, version); }
void *createInferRuntime_INTERNAL(void *logger, int version) { return refuse(logger, version); }
GIVES_NULL(createInferRefitter_INTERNAL)
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
