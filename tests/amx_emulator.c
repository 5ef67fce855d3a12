/* Emulates AMX on processors that lack it: a SIGILL handler decodes the tile instructions, carries
 * them out on tiles of the thread's own as Intel's manual says, and goes on behind them. What the
 * processor would refuse is refused: the handler steps back, and the signal ends the process.
 *
 *   int  amx_emulator_install(void)      0 if the handler is in place
 *   long amx_emulator_count(int which)   instructions carried out, all threads: see `counted`
 *   void amx_emulator_reset(void)        sets the counts to 0
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <xmmintrin.h>

enum counted { LDTILECFG, STTILECFG, TILELOAD, TILESTORE, TILEZERO, TILERELEASE, TDP, KINDS };
enum prefix { NONE, P66, PF3, PF2 };
enum { TILES = 8, ROWS = 16, BYTES = 64 };

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};
union tile {
    uint8_t bytes[ROWS][BYTES];
    int8_t signed_bytes[ROWS][BYTES];
    uint16_t halves[ROWS][BYTES / 2];
    float floats[ROWS][BYTES / 4];
    int32_t words[ROWS][BYTES / 4];
};

static __thread struct configuration config;
static __thread union tile tiles[TILES];
static atomic_long counts[KINDS];
static struct sigaction previous;

/* The registers in the order of their numbers. */
static const int registers[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

struct instruction {
    int prefix, opcode, mod, reg, rm, vvvv, length;
    int has_sib;
    uint8_t *address; /* base and displacement of sibmem, else the whole address */
    int64_t stride;
};

static int64_t displacement(const uint8_t *at, int bytes) {
    int32_t wide;
    if (bytes == 1) return (int8_t)at[0];
    memcpy(&wide, at, 4);
    return wide;
}

/* Decodes a VEX instruction of the map 0F38 with W = 0 and 128 bits; 0 if it is another one. */
static int decode(const uint8_t *code, const greg_t *general, struct instruction *found) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return 0;
    int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    const uint8_t *at = code + 5;
    int modrm = code[4];
    found->prefix = code[2] & 3;
    found->vvvv = ~(code[2] >> 3) & 15;
    found->opcode = code[3];
    found->mod = modrm >> 6;
    found->reg = (modrm >> 3 & 7) | r << 3;
    found->rm = (modrm & 7) | b << 3;
    found->has_sib = 0;
    found->address = 0;
    found->stride = 0;
    if (found->mod != 3) {
        int bytes = found->mod == 1 ? 1 : found->mod == 2 ? 4 : 0;
        int64_t base = 0, scaled = 0;
        int relative = 0;
        if ((modrm & 7) == 4) {
            int sib = *at++, index = (sib >> 3 & 7) | x << 3;
            found->has_sib = 1;
            if (index != 4) scaled = general[registers[index]] << (sib >> 6);
            if ((sib & 7) == 5 && found->mod == 0) bytes = 4;
            else base = general[registers[(sib & 7) | b << 3]];
        } else if ((modrm & 7) == 5 && found->mod == 0) {
            bytes = 4;
            relative = 1;
        } else {
            base = general[registers[found->rm]];
        }
        if (bytes) base += displacement(at, bytes);
        at += bytes;
        if (relative) base += (int64_t)(uintptr_t)at;
        found->stride = scaled;
        found->address = (uint8_t *)(uintptr_t)base;
    }
    found->length = (int)(at - code);
    return 1;
}

static int is_tile(int number) {
    return number < TILES && config.palette == 1 && config.rows[number] && config.colsb[number];
}

/* What the manual answers with #GP, which Linux makes SIGSEGV. */
static int general_protection(void) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    return 0;
}

static int load_configuration(const uint8_t *from) {
    struct configuration wanted;
    memcpy(&wanted, from, sizeof wanted);
    if (wanted.palette > 1) return general_protection();
    if (wanted.palette == 0) memset(&wanted, 0, sizeof wanted);
    for (int i = 0; i < 14; i++)
        if (wanted.reserved[i]) return general_protection();
    for (int t = 0; t < 16; t++) {
        int most_rows = t < TILES ? ROWS : 0, most_bytes = t < TILES ? BYTES : 0;
        if (wanted.rows[t] > most_rows || wanted.colsb[t] > most_bytes) return general_protection();
        if (!wanted.rows[t] != !wanted.colsb[t]) return general_protection();
    }
    config = wanted;
    memset(tiles, 0, sizeof tiles);
    return 1;
}

static int load_tile(const struct instruction *in) {
    if (!is_tile(in->reg) || !in->has_sib) return 0;
    union tile *tile = &tiles[in->reg];
    int rows = config.rows[in->reg], bytes = config.colsb[in->reg], row = config.start_row;
    if (row == 0) memset(tile, 0, sizeof *tile);
    for (; row < rows; row++) {
        memset(tile->bytes[row], 0, BYTES);
        memcpy(tile->bytes[row], in->address + row * in->stride, bytes);
    }
    config.start_row = 0;
    return 1;
}

static int store_tile(const struct instruction *in) {
    if (!is_tile(in->reg) || !in->has_sib) return 0;
    int rows = config.rows[in->reg], bytes = config.colsb[in->reg];
    for (int row = config.start_row; row < rows; row++)
        memcpy(in->address + row * in->stride, tiles[in->reg].bytes[row], bytes);
    config.start_row = 0;
    return 1;
}

/* Sums of even and of odd products start from 0 for each instruction; denormals are zeros. */
static void multiply_bf16(union tile *sum, const union tile *a, const union tile *b, int rows,
                          int pairs, int columns) {
    float right[2][ROWS][BYTES / 4];
    unsigned int control = _mm_getcsr();
    _mm_setcsr(0x9FC0); /* flush to zero, denormals are zero, to nearest, nothing traps */
    for (int k = 0; k < pairs; k++)
        for (int n = 0; n < BYTES / 4; n++)
            for (int odd = 0; odd < 2; odd++) {
                uint32_t bits = (uint32_t)b->halves[k][2 * n + odd] << 16;
                memcpy(&right[odd][k][n], &bits, 4);
            }
    for (int m = 0; m < rows; m++) {
        float part[2][BYTES / 4] = {{0}};
        for (int k = 0; k < pairs; k++)
            for (int odd = 0; odd < 2; odd++) {
                uint32_t bits = (uint32_t)a->halves[m][2 * k + odd] << 16;
                float left;
                memcpy(&left, &bits, 4);
                for (int n = 0; n < BYTES / 4; n++)
                    part[odd][n] = __builtin_fmaf(left, right[odd][k][n], part[odd][n]);
            }
        for (int n = 0; n < columns; n++) sum->floats[m][n] += part[0][n] + part[1][n];
        memset(&sum->floats[m][columns], 0, BYTES - 4 * columns);
    }
    _mm_setcsr(control);
}

static void multiply_int8(union tile *sum, const union tile *a, const union tile *b, int rows,
                          int fours, int columns, int a_signed, int b_signed) {
    for (int m = 0; m < rows; m++) {
        for (int k = 0; k < 4 * fours; k++) {
            int32_t left = a_signed ? a->signed_bytes[m][k] : a->bytes[m][k];
            for (int n = 0; n < columns; n++) {
                int at = 4 * n + (k & 3);
                int32_t right = b_signed ? b->signed_bytes[k / 4][at] : b->bytes[k / 4][at];
                uint32_t before = (uint32_t)sum->words[m][n];
                sum->words[m][n] = (int32_t)(before + (uint32_t)(left * right));
            }
        }
        memset(&sum->words[m][columns], 0, BYTES - 4 * columns);
    }
}

static int multiply(const struct instruction *in) {
    int c = in->reg, a = in->rm, b = in->vvvv;
    if (c == a || c == b || a == b || !is_tile(a) || !is_tile(b) || !is_tile(c)) return 0;
    if (config.colsb[a] % 4 || config.colsb[b] % 4 || config.colsb[c] % 4) return 0;
    if (config.rows[a] != config.rows[c] || config.colsb[a] / 4 != config.rows[b]) return 0;
    if (config.colsb[b] != config.colsb[c]) return 0;
    int rows = config.rows[c], depth = config.rows[b], columns = config.colsb[c] / 4;
    if (in->opcode == 0x5C) {
        if (in->prefix != PF3) return 0;
        multiply_bf16(&tiles[c], &tiles[a], &tiles[b], rows, depth, columns);
    } else {
        int a_signed = in->prefix == PF2 || in->prefix == PF3;
        int b_signed = in->prefix == PF2 || in->prefix == P66;
        multiply_int8(&tiles[c], &tiles[a], &tiles[b], rows, depth, columns, a_signed, b_signed);
    }
    memset(tiles[c].bytes[rows], 0, (size_t)(ROWS - rows) * BYTES);
    config.start_row = 0;
    return 1;
}

/* Carries an instruction out; what it was (enum counted), or -1 if it is not valid. */
static int execute(const struct instruction *in) {
    int in_memory = in->mod != 3, no_third = in->vvvv == 0;
    if (in->opcode == 0x49 && no_third) {
        if (in_memory && in->reg == 0 && in->prefix == NONE)
            return load_configuration(in->address + in->stride) ? LDTILECFG : -1;
        if (in_memory && in->reg == 0 && in->prefix == P66) {
            memcpy(in->address + in->stride, &config, sizeof config);
            return STTILECFG;
        }
        if (!in_memory && in->reg == 0 && in->rm == 0 && in->prefix == NONE) {
            memset(&config, 0, sizeof config);
            memset(tiles, 0, sizeof tiles);
            return TILERELEASE;
        }
        if (!in_memory && in->rm == 0 && in->prefix == PF2 && is_tile(in->reg)) {
            memset(&tiles[in->reg], 0, sizeof tiles[0]);
            config.start_row = 0;
            return TILEZERO;
        }
    }
    if (in->opcode == 0x4B && no_third && in_memory) {
        if (in->prefix == PF3) return store_tile(in) ? TILESTORE : -1;
        if (in->prefix == PF2 || in->prefix == P66) return load_tile(in) ? TILELOAD : -1;
    }
    if ((in->opcode == 0x5C || in->opcode == 0x5E) && !in_memory) return multiply(in) ? TDP : -1;
    return -1;
}

static void on_illegal(int number, siginfo_t *info, void *where) {
    greg_t *general = ((ucontext_t *)where)->uc_mcontext.gregs;
    struct instruction in;
    (void)info;
    if (decode((const uint8_t *)general[REG_RIP], general, &in)) {
        int kind = execute(&in);
        if (kind >= 0) {
            atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
            general[REG_RIP] += in.length;
            return;
        }
    }
    sigaction(number, &previous, 0);
}

int amx_emulator_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, &previous);
}

long amx_emulator_count(int which) { return which < KINDS ? atomic_load(&counts[which]) : -1; }

void amx_emulator_reset(void) {
    for (int which = 0; which < KINDS; which++) atomic_store(&counts[which], 0);
}
