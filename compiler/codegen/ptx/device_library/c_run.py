"""The C text of a run, which is a graph of the driver that is recorded once."""

from __future__ import annotations

RUN = r"""
static address up(address size) { return (size + 1023) / 1024 * 1024; }

/* Where things lie in the block: arena | inputs | outputs | fault cells. */
typedef struct {
  address inputs[${prefix}_INPUT_COUNT + 1], outputs[${prefix}_OUTPUT_COUNT + 1], faults, size;
} layout;

static int is_absurd(const int64_t *d) {
  for (int k = 0; k < ${prefix}_INPUT_DIM_COUNT; ++k)
    if (d[k] < 0 || d[k] > INT32_MAX) return 1;
  return 0;
}

/* A size of the outputs or in between that is negative, -1 if none is. */
static int32_t too_small(const program *p, const int64_t *d) {
  for (int32_t k = 0; k < p->required_count; ++k)
    if (p->size(p->required[k].size, d) < 0) return k;
  for (int k = 0; k < ${prefix}_OUTPUT_COUNT; ++k)
    if (p->size(p->output_bytes[k], d) < 0) return p->required_count;
  return -1;
}

static address after(address place, int64_t size) {
  return up(place) + (size > 1024 ? (address)size : 1024);
}

static layout lay_out(const program *p, const int64_t *d) {
  layout found;
  address end = 0;
  for (int32_t k = 0; k < p->end_count; ++k)
    end = (address)most((int64_t)end, p->size(p->ends[k], d));
  for (int k = 0; k < ${prefix}_INPUT_COUNT; ++k) {
    found.inputs[k] = up(end);
    end = after(end, p->size(p->input_bytes[k], d));
  }
  for (int k = 0; k < ${prefix}_OUTPUT_COUNT; ++k) {
    found.outputs[k] = up(end);
    end = after(end, p->size(p->output_bytes[k], d));
  }
  found.faults = up(end);
  found.size = after(end, 8 * (int64_t)p->fault_count);
  return found;
}

API int64_t ${prefix}_workspace_bytes(const int64_t *dims) {
  int64_t largest = 0, none[1] = {0};
  const int64_t *d = dims ? dims : none;
  if (!dims && ${prefix}_INPUT_DIM_COUNT) return -1;
  for (int k = 0; k < PROGRAM_COUNT; ++k) {
    if (is_absurd(d) || too_small(&programs[k], d) >= 0) return -1;
    largest = most(largest, (int64_t)lay_out(&programs[k], d).size);
  }
  return largest;
}

static address address_of(const ${prefix}_context *c, const layout *l, const place *p,
                          const int64_t *d) {
  switch (p->space) {
    case ARENA: return c->block + (address)c->code->size(p->offset, d);
    case WEIGHTS: return c->weights + (address)c->code->size(p->offset, d);
    case INPUT: return c->block + l->inputs[p->number];
    default: return c->block + l->outputs[p->number];
  }
}

static int32_t encode(${prefix}_context *c, const tensor_map *m, address buffer, const int64_t *d,
                      map_bytes *out) {
  uint64_t shape[5], strides[5];
  address start = buffer + (address)c->code->size(m->offset, d);
  for (int k = 0; k < m->rank; ++k) shape[k] = (uint64_t)c->code->size(m->shape[k], d);
  for (int k = 0; k + 1 < m->rank; ++k) strides[k] = (uint64_t)c->code->size(m->strides[k], d);
  if (!c->call.cuTensorMapEncodeTiled || !c->call.cuTensorMapEncodeIm2col)
    return fail(c, ${prefix}_DRIVER_TOO_OLD,
                "the CUDA driver has no tensor maps: install a newer one");
  if (m->is_windows)
    DO(cuTensorMapEncodeIm2col, out, m->element, (unsigned)m->rank, start, shape, strides, m->lower,
       m->upper, m->channels, m->pixels, m->steps, 0, m->swizzle, 2, 0);
  else
    DO(cuTensorMapEncodeTiled, out, m->element, (unsigned)m->rank, start, shape, strides, m->box,
       m->steps, 0, m->swizzle, 2, 0);
  return ${prefix}_OK;
}

static int32_t launch(${prefix}_context *c, const layout *l, const step *s, const int64_t *d) {
  const kernel *k = &c->code->kernels[s->kernel];
  address buffers[MOST_PLACES + 1], fault;
  int64_t symbols[MOST_SYMBOLS + 1];
  map_bytes maps[MOST_MAPS + 1];
  void *parameters[MOST_PLACES + MOST_SYMBOLS + MOST_MAPS + 2];
  int count = 0;
  int64_t grid = c->code->size(s->grid, d);
  if (grid <= 0) return ${prefix}_OK;
  if (grid > INT32_MAX / k->threads)
    return fail(c, ${prefix}_INVALID_ARGUMENT, "%s: a tensor is too large for one launch",
                s->where);
  for (int j = 0; j < s->places; ++j) {
    buffers[j] = address_of(c, l, &c->code->places[s->first_place + j], d);
    parameters[count++] = &buffers[j];
  }
  for (int j = 0; j < s->symbols; ++j) {
    symbols[j] = c->code->size(c->code->symbols[s->first_symbol + j], d);
    parameters[count++] = &symbols[j];
  }
  if (k->messages) {
    fault = c->block + l->faults + 8 * (address)s->fault;
    parameters[count++] = &fault;
  }
  for (int j = 0; j < s->maps; ++j) {
    const tensor_map *m = &c->code->maps[s->first_map + j];
    int32_t status = encode(c, m, buffers[m->buffer], d, &maps[j]);
    if (status) return status;
    parameters[count++] = &maps[j];
  }
  DO(cuLaunchKernel, c->functions[s->kernel], (unsigned)grid, 1, 1, (unsigned)k->threads, 1, 1,
     (unsigned)k->shared, c->stream, parameters, NULL);
  return ${prefix}_OK;
}

static int32_t check_finite(${prefix}_context *c, address where, int32_t type, const char *name) {
  unsigned char bytes[8] = {0};
  static const int sizes[] = {2, 2, 4, 8}, shifts[] = {10, 7, 23, 52}, widths[] = {5, 8, 8, 11};
  uint64_t bits = 0, mask = ((uint64_t)1 << widths[type]) - 1;
  DO(cuMemcpyAsync, (address)(uintptr_t)bytes, where, (size_t)sizes[type], c->stream);
  DO(cuStreamSynchronize, c->stream);
  memcpy(&bits, bytes, 8);
  if ((bits >> shifts[type] & mask) == mask)
    return fail(c, ${prefix}_NOT_FINITE, "%s is not finite: nothing was updated", name);
  return ${prefix}_OK;
}

static int32_t do_steps(${prefix}_context *c, const layout *l, const int64_t *d) {
  for (int32_t k = 0; k < c->code->step_count; ++k) {
    const step *s = &c->code->steps[k];
    const place *places = &c->code->places[s->first_place];
    int32_t status = ${prefix}_OK;
    if (s->kind == LAUNCH) {
      status = launch(c, l, s, d);
    } else if (s->kind == FINITE) {
      status = check_finite(c, address_of(c, l, &places[0], d), s->kernel, s->where);
    } else {
      address source = address_of(c, l, &places[0], d), target = address_of(c, l, &places[1], d);
      size_t size = (size_t)c->code->size(s->grid, d);
      if (size && source != target) DO(cuMemcpyAsync, target, source, size, c->stream);
    }
    if (status) return status;
  }
  return ${prefix}_OK;
}

static void forget_graph(${prefix}_context *c) {
  if (c->graph) c->call.cuGraphExecDestroy(c->graph);
  c->graph = NULL;
}

/* The steps in one graph, recorded when the dims are new. */
static int32_t replay(${prefix}_context *c, const layout *l, const int64_t *d) {
  if (c->graph && memcmp(c->dims, d, sizeof(int64_t) * ${prefix}_INPUT_DIM_COUNT)) forget_graph(c);
  if (!c->graph) {
    void *recorded = NULL;
    DO(cuStreamBeginCapture_v2, c->stream, 1);
    int32_t status = do_steps(c, l, d);
    int code = c->call.cuStreamEndCapture(c->stream, &recorded);
    if (!status) status = told(c, code, "cuStreamEndCapture");
    if (!status)
      status = told(c, c->call.cuGraphInstantiateWithFlags(&c->graph, recorded, 0),
                    "cuGraphInstantiateWithFlags");
    if (recorded) c->call.cuGraphDestroy(recorded);
    if (status) return status;
    memcpy(c->dims, d, sizeof(int64_t) * ${prefix}_INPUT_DIM_COUNT);
  }
  DO(cuGraphLaunch, c->graph, c->stream);
  return ${prefix}_OK;
}

static int32_t check_faults(${prefix}_context *c, const int32_t *cells) {
  for (int32_t k = 0; k < c->code->step_count; ++k) {
    const step *s = &c->code->steps[k];
    if (s->kind != LAUNCH || !c->code->kernels[s->kernel].messages) continue;
    int32_t code = cells[2 * s->fault];
    const kernel *found = &c->code->kernels[s->kernel];
    if (code > 0 && code <= found->messages)
      return fail(c, ${prefix}_INDEX_OUT_OF_RANGE, "%s: %s", s->where,
                  c->code->messages[found->first_message + code - 1]);
  }
  return ${prefix}_OK;
}

static int32_t run(${prefix}_context *c, const void *const *inputs, void *const *outputs,
                   const int64_t *d) {
  const program *p = c->code;
  layout l = lay_out(p, d);
  int32_t cells[2 * MOST_FAULTS + 2] = {0}, status;
  if (l.size > c->block_bytes) {
    forget_graph(c);
    if (c->block) DO(cuMemFree_v2, c->block);
    c->block = 0, c->block_bytes = 0;
    DO(cuMemAlloc_v2, &c->block, l.size);
    c->block_bytes = l.size;
  }
  for (int k = 0; k < ${prefix}_INPUT_COUNT; ++k) {
    size_t size = (size_t)p->size(p->input_bytes[k], d);
    address given = (address)(uintptr_t)inputs[k];
    if (size) DO(cuMemcpyAsync, c->block + l.inputs[k], given, size, c->stream);
  }
  size_t faults = 8 * (size_t)p->fault_count;
  if (faults) DO(cuMemsetD8Async, c->block + l.faults, 0, faults, c->stream);
  if ((status = HAS_HOST_STEPS ? do_steps(c, &l, d) : replay(c, &l, d))) return status;
  for (int k = 0; k < ${prefix}_OUTPUT_COUNT; ++k) {
    size_t size = (size_t)p->size(p->output_bytes[k], d);
    address wanted = (address)(uintptr_t)outputs[k];
    if (size) DO(cuMemcpyAsync, wanted, c->block + l.outputs[k], size, c->stream);
  }
  if (faults) DO(cuMemcpyAsync, (address)(uintptr_t)cells, c->block + l.faults, faults, c->stream);
  DO(cuStreamSynchronize, c->stream);
  return check_faults(c, cells);
}

API int32_t ${prefix}_run(${prefix}_context *c, const void *const *inputs, void *const *outputs,
                          const int64_t *dims) {
  int64_t none[1] = {0};
  const int64_t *d = dims ? dims : none;
  if (!c) return ${prefix}_INVALID_ARGUMENT;
  c->message[0] = 0;
  if ((!dims && ${prefix}_INPUT_DIM_COUNT) || (!inputs && ${prefix}_INPUT_COUNT) || !outputs)
    return fail(c, ${prefix}_INVALID_ARGUMENT, "an argument is NULL");
  for (int k = 0; k < ${prefix}_INPUT_COUNT; ++k)
    if (!inputs[k]) return fail(c, ${prefix}_INVALID_ARGUMENT, "input %d is NULL", k);
  for (int k = 0; k < ${prefix}_OUTPUT_COUNT; ++k)
    if (!outputs[k]) return fail(c, ${prefix}_INVALID_ARGUMENT, "output %d is NULL", k);
  if (is_absurd(d)) return fail(c, ${prefix}_INVALID_ARGUMENT, "the dims are absurd");
  int32_t small = too_small(c->code, d);
  if (small >= 0)
    return fail(c, ${prefix}_SHAPE_MISMATCH, "%s: an input is too small: a size is negative",
                small < c->code->required_count ? c->code->required[small].where : "an output");
  DO(cuCtxPushCurrent_v2, c->context);
  c->has_pushed = 1;
  int32_t status = run(c, inputs, outputs, d);
  pop(c);
  return status;
}
"""
