"""The C text that creates and destroys contexts, from opening the driver to freeing all memory."""

from __future__ import annotations

LIFE = r"""
struct ${prefix}_context {
  void *library, *context, *stream, *module, *graph;
  driver_calls call;
  int device;
  const program *code;
  void **functions;
  address weights, block;
  size_t block_bytes;
  int has_pushed, has_device;
  int64_t dims[${prefix}_DIM_COUNT + 1];
  ${prefix}_options options;
  char message[1024];
};

static int32_t fail(${prefix}_context *c, int32_t status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->message, sizeof c->message, format, arguments);
  va_end(arguments);
  if (c->options.log) c->options.log(c->options.log_user, status, c->message);
  return status;
}

static int32_t told(${prefix}_context *c, int code, const char *what) {
  const char *name = NULL;
  if (!code) return ${prefix}_OK;
  c->call.cuGetErrorName(code, &name);
  if (code == 2) {
    return fail(c, ${prefix}_OUT_OF_MEMORY, "%s failed: the device has too little free memory",
                what);
  }
  if (code == 222 || code == 209) {
    return fail(c, ${prefix}_DRIVER_TOO_OLD, "%s failed: %s: the driver cannot read this code",
                what, name ? name : "?");
  }
  if (code == 100 || code == 101) {
    return fail(c, ${prefix}_NO_DEVICE, "%s failed: %s: there is no such CUDA device", what,
                name ? name : "?");
  }
  return fail(c, ${prefix}_DEVICE, "%s failed: %s (%d)", what, name ? name : "?", code);
}

/* Calls and returns from the function where the driver refuses. */
#define DO(call_, ...)                                                     \
  do {                                                                     \
    int32_t status_ = told(c, c->call.call_(__VA_ARGS__), #call_);         \
    if (status_) return status_;                                           \
  } while (0)

static int32_t open_driver(${prefix}_context *c) {
  c->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!c->library) {
    return fail(c, ${prefix}_NO_DEVICE, "there is no CUDA driver: %s", dlerror());
  }
#define CALL(name, parameters)                                                             \
  *(void **)&c->call.name = dlsym(c->library, #name);                                      \
  if (!c->call.name && NEEDED)                                                             \
    return fail(c, ${prefix}_DRIVER_TOO_OLD, "the CUDA driver has no " #name              \
                ": install a newer one");
#define NEEDED 1
  CALLS(CALL)
#undef NEEDED
#define NEEDED 0
  MAP_CALLS(CALL)
#undef NEEDED
#undef CALL
  return ${prefix}_OK;
}

/* The most able code that the device runs, and whether it is assembled for it. */
static int32_t choose_code(${prefix}_context *c) {
  int major = 0, minor = 0;
  char name[256] = "";
  DO(cuDeviceGetAttribute, &major, 75, c->device);
  DO(cuDeviceGetAttribute, &minor, 76, c->device);
  DO(cuDeviceGetName, name, (int)sizeof name, c->device);
  int level = 10 * major + minor;
  for (int k = 0; k < PROGRAM_COUNT; ++k) {
    const program *p = &programs[k];
    if ((p->is_exact ? level == p->level : level >= p->level) &&
        (!c->code || p->level > c->code->level))
      c->code = p;
  }
  if (!c->code) {
    return fail(c, ${prefix}_NO_DEVICE, "%s has compute capability %d.%d; the code is for " LEVELS,
                name, major, minor);
  }
  char log[4096] = "";
  int options[] = {5, 6}; /* the compiler's log, and its size */
  void *values[] = {log, (void *)sizeof log};
  int is_same = level / 10 == c->code->level / 10 && c->code->cubin;
  int code = 1;
  /* A driver older than the assembler refuses the cubin: it translates the PTX. */
  if (is_same) code = c->call.cuModuleLoadDataEx(&c->module, c->code->cubin, 2, options, values);
  if (code) code = c->call.cuModuleLoadDataEx(&c->module, c->code->ptx, 2, options, values);
  if (code) {
    int32_t status = told(c, code, "cuModuleLoadDataEx");
    size_t length = strlen(c->message);
    snprintf(c->message + length, sizeof c->message - length, ": %s", log);
    return status;
  }
  return ${prefix}_OK;
}

static int32_t load_code(${prefix}_context *c) {
  const program *p = c->code;
  c->functions = calloc((size_t)p->kernel_count + 1, sizeof *c->functions);
  if (!c->functions) return fail(c, ${prefix}_OUT_OF_MEMORY, "there is no memory");
  for (int32_t k = 0; k < p->kernel_count; ++k) {
    DO(cuModuleGetFunction, &c->functions[k], c->module, p->kernels[k].name);
    if (p->kernels[k].shared > 49152)
      DO(cuFuncSetAttribute, c->functions[k], 8, p->kernels[k].shared);
  }
  DO(cuMemAlloc_v2, &c->weights, p->weights_bytes + 1024);
  if (p->weights_bytes)
    DO(cuMemcpyAsync, c->weights, (address)(uintptr_t)p->weights, p->weights_bytes, c->stream);
  DO(cuStreamSynchronize, c->stream);
  return ${prefix}_OK;
}

static int32_t open_device(${prefix}_context *c) {
  int32_t status = open_driver(c);
  int count = 0;
  if (status) return status;
  DO(cuInit, 0);
  DO(cuDeviceGetCount, &count);
  if (c->options.device < 0 || c->options.device >= count) {
    return fail(c, ${prefix}_NO_DEVICE, "there is no CUDA device %d: the driver finds %d",
                (int)c->options.device, count);
  }
  DO(cuDeviceGet, &c->device, c->options.device);
  DO(cuDevicePrimaryCtxRetain, &c->context, c->device);
  c->has_device = 1;
  DO(cuCtxPushCurrent_v2, c->context);
  c->has_pushed = 1;
  DO(cuStreamCreate, &c->stream, 1);
  if ((status = choose_code(c))) return status;
  return load_code(c);
}

static void pop(${prefix}_context *c) {
  void *before;
  if (c->has_pushed) c->call.cuCtxPopCurrent_v2(&before);
  c->has_pushed = 0;
}

API void ${prefix}_destroy(${prefix}_context *c) {
  if (!c) return;
  if (c->has_device) {
    if (!c->has_pushed) c->has_pushed = !c->call.cuCtxPushCurrent_v2(c->context);
    if (c->graph) c->call.cuGraphExecDestroy(c->graph);
    if (c->block) c->call.cuMemFree_v2(c->block);
    if (c->weights) c->call.cuMemFree_v2(c->weights);
    if (c->module) c->call.cuModuleUnload(c->module);
    if (c->stream) c->call.cuStreamDestroy_v2(c->stream);
    pop(c);
    c->call.cuDevicePrimaryCtxRelease_v2(c->device);
  }
  /* The driver stays in the process: others may use it. */
  free(c->functions);
  free(c);
}

API int32_t ${prefix}_create(${prefix}_context **out, const ${prefix}_options *options) {
  if (!out) return ${prefix}_INVALID_ARGUMENT;
  *out = NULL;
  ${prefix}_context *c = calloc(1, sizeof *c);
  if (!c) return ${prefix}_OUT_OF_MEMORY;
  if (options) c->options = *options;
  int32_t status = open_device(c);
  pop(c);
  if (status)
    ${prefix}_destroy(c);
  else
    *out = c;
  return status;
}
"""
