// A stand-in for libcudart, for tests: "device" memory is host memory, and a stream does its work
// only when it is synchronised, so that whoever reads or reuses too early is found out.
//
// FAKE_CUDA_FAIL=name:n:code lets the n-th call of that function since fake_reset() fail.
// FAKE_CUDA_CAPABILITY=8.7, FAKE_CUDA_FREE_MIB=4096, FAKE_CUDA_INTEGRATED=1 and FAKE_CUDA_GPUS=1
// describe the machine.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

enum {
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNoDevice = 100, kInvalidDevice = 101,
  kInvalidHandle = 400, kCaptureUnsupported = 900, kCaptureInvalidated = 901
};
enum { kHostToDevice = 1, kDeviceToHost = 2 };
using Callback = void (*)(void*);

struct Operation {
  Callback call;  // null: a copy
  void* destination;
  const void* source;
  size_t bytes;
};
struct Work { std::vector<Operation> operations; };
struct Stream { Work queued, captured; bool capturing, invalid; };

std::mutex mutex;
std::map<char*, size_t> allocations;
std::set<void*> streams, graphs, executables;
std::map<std::string, int> calls;
int last_error = 0;
thread_local int device = -1;

int fail(int code) { last_error = code; return code; }

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

// Counts the call; the error that the test asked for, if this is the call.
int begin(const char* name) {
  const int count = ++calls[name];
  const char* text = std::getenv("FAKE_CUDA_FAIL");
  char wanted[64];
  int n = 0, code = 0;
  if (text && std::sscanf(text, "%63[^:]:%d:%d", wanted, &n, &code) == 3 &&
      std::strcmp(wanted, name) == 0 && (n == 0 || n == count)) return fail(code);
  return kSuccess;
}

// Work belongs to a thread that chose its device.
int begin_work(const char* name) {
  const int error = begin(name);
  return error ? error : device < 0 ? fail(kInvalidDevice) : kSuccess;
}

bool on_device(const void* pointer, size_t bytes) {
  const char* at = static_cast<const char*>(pointer);
  for (const auto& item : allocations)
    if (at >= item.first && at + bytes <= item.first + item.second) return true;
  return false;
}

bool touches_device(const void* pointer, size_t bytes) {
  const char* at = static_cast<const char*>(pointer);
  for (const auto& item : allocations)
    if (at < item.first + item.second && at + bytes > item.first) return true;
  return false;
}

Stream* find(void* stream) {
  return streams.count(stream) ? static_cast<Stream*>(stream) : nullptr;
}

}  // namespace

#define BEGIN(name)                                   \
  std::lock_guard<std::mutex> lock(mutex);            \
  if (const int error = begin(name)) return error
#define BEGIN_WORK(name)                              \
  std::lock_guard<std::mutex> lock(mutex);            \
  if (const int error = begin_work(name)) return error

extern "C" {

const char* cudaGetErrorString(int code) {
  switch (code) {
    case kOutOfMemory: return "out of memory";
    case kNoDevice: return "no CUDA-capable device is detected";
    case kCaptureUnsupported: return "operation not permitted when stream is capturing";
    case kCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "some error";
  }
}

int cudaGetLastError() {
  std::lock_guard<std::mutex> lock(mutex);
  const int error = last_error;
  last_error = kSuccess;
  return error;
}

int cudaGetDeviceCount(int* count) {
  BEGIN("cudaGetDeviceCount");
  *count = number("FAKE_CUDA_GPUS", 1);
  return *count > 0 ? kSuccess : fail(kNoDevice);
}

int cudaSetDevice(int index) {
  BEGIN("cudaSetDevice");
  if (index < 0 || index >= number("FAKE_CUDA_GPUS", 1)) return fail(kInvalidDevice);
  device = index;
  return kSuccess;
}

int cudaDeviceGetAttribute(int* value, int attribute, int) {
  BEGIN("cudaDeviceGetAttribute");
  const char* text = std::getenv("FAKE_CUDA_CAPABILITY");
  int major = 5, minor = 3;
  if (text) std::sscanf(text, "%d.%d", &major, &minor);
  if (attribute != 18 && attribute != 75 && attribute != 76) return fail(kInvalidValue);
  *value = attribute == 75 ? major : attribute == 76 ? minor : number("FAKE_CUDA_INTEGRATED", 0);
  return kSuccess;
}

int cudaGetDeviceProperties(void* properties, int) {
  BEGIN("cudaGetDeviceProperties");
  std::memset(properties, 0, 1024);
  std::strcpy(static_cast<char*>(properties), "Stand-in GPU");
  return kSuccess;
}

int cudaRuntimeGetVersion(int* version) {
  BEGIN("cudaRuntimeGetVersion");
  *version = 10020;
  return kSuccess;
}

int cudaMemGetInfo(size_t* free, size_t* total) {
  BEGIN_WORK("cudaMemGetInfo");
  *free = static_cast<size_t>(number("FAKE_CUDA_FREE_MIB", 4096)) << 20;
  *total = *free;
  return kSuccess;
}

int cudaMalloc(void** pointer, size_t bytes) {
  BEGIN_WORK("cudaMalloc");
  char* memory = static_cast<char*>(std::malloc(bytes));
  std::memset(memory, 0xA5, bytes);
  allocations[memory] = bytes;
  *pointer = memory;
  return kSuccess;
}

int cudaFree(void* pointer) {
  BEGIN_WORK("cudaFree");
  if (!allocations.erase(static_cast<char*>(pointer))) return fail(kInvalidValue);
  std::free(pointer);
  return kSuccess;
}

int cudaStreamCreateWithFlags(void** stream, unsigned) {
  BEGIN_WORK("cudaStreamCreateWithFlags");
  *stream = new Stream();
  streams.insert(*stream);
  return kSuccess;
}

int cudaStreamDestroy(void* stream) {
  BEGIN_WORK("cudaStreamDestroy");
  if (!streams.erase(stream)) return fail(kInvalidHandle);
  delete static_cast<Stream*>(stream);
  return kSuccess;
}

int cudaMemcpyAsync(void* destination, const void* source, size_t bytes, int kind, void* stream) {
  BEGIN_WORK("cudaMemcpyAsync");
  Stream* found = find(stream);
  if (!found) return fail(kInvalidHandle);
  const void* on_gpu = kind == kHostToDevice ? destination : source;
  const void* on_cpu = kind == kHostToDevice ? source : destination;
  if (kind != kHostToDevice && kind != kDeviceToHost) return fail(kInvalidValue);
  if (!on_device(on_gpu, bytes) || touches_device(on_cpu, bytes)) return fail(kInvalidValue);
  if (found->capturing) {
    found->invalid = true;
    return fail(kCaptureUnsupported);
  }
  found->queued.operations.push_back({nullptr, destination, source, bytes});
  return kSuccess;
}

int cudaStreamSynchronize(void* stream) {
  std::vector<Operation> operations;
  {
    BEGIN_WORK("cudaStreamSynchronize");
    Stream* found = find(stream);
    if (!found) return fail(kInvalidHandle);
    if (found->capturing) {
      found->invalid = true;
      return fail(kCaptureUnsupported);
    }
    operations.swap(found->queued.operations);
  }
  for (const Operation& item : operations) {
    if (item.call) item.call(item.destination);
    else std::memcpy(item.destination, item.source, item.bytes);
  }
  return kSuccess;
}

int cudaStreamBeginCapture(void* stream, int mode) {
  BEGIN_WORK("cudaStreamBeginCapture");
  Stream* found = find(stream);
  if (!found || found->capturing || mode < 0 || mode > 2) return fail(kInvalidValue);
  found->capturing = true;
  found->invalid = false;
  found->captured.operations.clear();
  return kSuccess;
}

int cudaStreamEndCapture(void* stream, void** graph) {
  std::lock_guard<std::mutex> lock(mutex);
  const int error = begin_work("cudaStreamEndCapture");
  *graph = nullptr;
  Stream* found = find(stream);
  if (!found || !found->capturing) return fail(kInvalidValue);
  found->capturing = false;  // whether or not anything comes of it
  if (error) return error;
  if (found->invalid) return fail(kCaptureInvalidated);
  *graph = new Work(found->captured);
  graphs.insert(*graph);
  return kSuccess;
}

int cudaGraphInstantiate(void** executable, void* graph, void* node, void* log, size_t bytes) {
  BEGIN_WORK("cudaGraphInstantiate");
  // Later versions read the third argument as flags.
  if (!graphs.count(graph) || node || log || bytes) return fail(kInvalidValue);
  *executable = new Work(*static_cast<Work*>(graph));
  executables.insert(*executable);
  return kSuccess;
}

int cudaGraphLaunch(void* executable, void* stream) {
  BEGIN_WORK("cudaGraphLaunch");
  Stream* found = find(stream);
  if (!found || !executables.count(executable)) return fail(kInvalidValue);
  for (const Operation& item : static_cast<Work*>(executable)->operations)
    found->queued.operations.push_back(item);
  return kSuccess;
}

int cudaGraphDestroy(void* graph) {
  BEGIN_WORK("cudaGraphDestroy");
  if (!graphs.erase(graph)) return fail(kInvalidValue);
  delete static_cast<Work*>(graph);
  return kSuccess;
}

int cudaGraphExecDestroy(void* executable) {
  BEGIN_WORK("cudaGraphExecDestroy");
  if (!executables.erase(executable)) return fail(kInvalidValue);
  delete static_cast<Work*>(executable);
  return kSuccess;
}

// What the stand-in for TensorRT and the tests need.

// Puts a call into a stream, as a kernel would be; FAKE_CUDA_NO_CAPTURE=1 refuses while capturing.
int fake_enqueue(void* stream, Callback call, void* argument) {
  BEGIN_WORK("fake_enqueue");
  if (last_error) return last_error;  // TensorRT meets errors that others left behind, too
  Stream* found = find(stream);
  if (!found) return fail(kInvalidHandle);
  if (found->capturing && number("FAKE_CUDA_NO_CAPTURE", 0)) {
    found->invalid = true;
    return fail(kCaptureUnsupported);
  }
  Work& work = found->capturing ? found->captured : found->queued;
  work.operations.push_back({call, argument, nullptr, 0});
  return kSuccess;
}

int fake_on_device(const void* pointer, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  return on_device(pointer, bytes);
}

// Allocations, streams and graphs that nobody gave back.
int fake_live() {
  std::lock_guard<std::mutex> lock(mutex);
  return static_cast<int>(
      allocations.size() + streams.size() + graphs.size() + executables.size());
}

int fake_calls(const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  return calls[name];
}

void fake_reset() {
  std::lock_guard<std::mutex> lock(mutex);
  calls.clear();
  last_error = kSuccess;
  device = -1;
}

}  // extern "C"
