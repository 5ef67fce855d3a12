"""The C text that calls NVIDIA's driver: libcuda is opened by name.

Only libc and libdl are linked. The driver's types are declared here, as its ABI defines them.
"""

from __future__ import annotations

DRIVER = r"""
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;
typedef struct { _Alignas(128) unsigned char bytes[128]; } map_bytes;

/* name, parameters: every call of the driver that there is */
#define CALLS(CALL) \
  CALL(cuInit, (unsigned)) \
  CALL(cuDriverGetVersion, (int *)) \
  CALL(cuDeviceGetCount, (int *)) \
  CALL(cuDeviceGet, (int *, int)) \
  CALL(cuDeviceGetName, (char *, int, int)) \
  CALL(cuDeviceGetAttribute, (int *, int, int)) \
  CALL(cuDevicePrimaryCtxRetain, (void **, int)) \
  CALL(cuDevicePrimaryCtxRelease_v2, (int)) \
  CALL(cuCtxPushCurrent_v2, (void *)) \
  CALL(cuCtxPopCurrent_v2, (void **)) \
  CALL(cuStreamCreate, (void **, unsigned)) \
  CALL(cuStreamDestroy_v2, (void *)) \
  CALL(cuStreamSynchronize, (void *)) \
  CALL(cuStreamBeginCapture_v2, (void *, int)) \
  CALL(cuStreamEndCapture, (void *, void **)) \
  CALL(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long)) \
  CALL(cuGraphDestroy, (void *)) \
  CALL(cuGraphLaunch, (void *, void *)) \
  CALL(cuGraphExecDestroy, (void *)) \
  CALL(cuMemAlloc_v2, (address *, size_t)) \
  CALL(cuMemFree_v2, (address)) \
  CALL(cuMemcpyAsync, (address, address, size_t, void *)) \
  CALL(cuMemsetD8Async, (address, unsigned char, size_t, void *)) \
  CALL(cuModuleLoadDataEx, (void **, const void *, unsigned, int *, void **)) \
  CALL(cuModuleUnload, (void *)) \
  CALL(cuModuleGetFunction, (void **, void *, const char *)) \
  CALL(cuFuncSetAttribute, (void *, int, int)) \
  CALL(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
                        unsigned, void *, void **, void **)) \
  CALL(cuGetErrorName, (int, const char **))

#define MAP_CALLS(CALL) \
  CALL(cuTensorMapEncodeTiled, (map_bytes *, int, unsigned, address, const uint64_t *, \
                                const uint64_t *, const uint32_t *, const uint32_t *, int, int, \
                                int, int)) \
  CALL(cuTensorMapEncodeIm2col, (map_bytes *, int, unsigned, address, const uint64_t *, \
                                 const uint64_t *, const int *, const int *, uint32_t, uint32_t, \
                                 const uint32_t *, int, int, int, int))

typedef struct {
#define CALL(name, parameters) int (*name) parameters;
  CALLS(CALL) MAP_CALLS(CALL)
#undef CALL
} driver_calls;

/* The tables: sizes are numbers of entries, which size_of_... computes from the dims. */
enum { ARENA, WEIGHTS, INPUT, OUTPUT };
enum { LAUNCH, COPY, FINITE };
typedef struct { int32_t space, number, offset; } place;
typedef struct {
  const char *name;
  int32_t threads, shared, messages, first_message;
} kernel;
typedef struct {
  int32_t buffer, element, swizzle, rank, offset;
  int32_t shape[5], strides[5];
  uint32_t box[5];
  int32_t is_windows, lower[5], upper[5];
  uint32_t channels, pixels, steps[5];
} tensor_map;
typedef struct {
  int32_t kind, kernel, places, first_place, symbols, first_symbol, grid, maps, first_map, fault;
  const char *where; /* of COPY, `grid` is the size; of FINITE, `kernel` is the element type */
} step;
typedef struct { int32_t size; const char *where; } required_size;
typedef struct {
  int32_t level, is_exact, kernel_count, step_count, end_count, fault_count, required_count;
  const unsigned char *ptx, *cubin, *weights;
  size_t weights_bytes;
  const kernel *kernels;
  const char *const *messages;
  const step *steps;
  const place *places;
  const int32_t *symbols, *ends, *input_bytes, *output_bytes;
  const tensor_map *maps;
  const required_size *required;
  int64_t (*size)(int32_t entry, const int64_t *d);
} program;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t floored(int64_t a, int64_t b) {
  return b ? a / b - (a % b != 0 && (a < 0) != (b < 0)) : 0;
}
static int64_t modulo(int64_t a, int64_t b) { return b ? a - b * floored(a, b) : 0; }
"""
