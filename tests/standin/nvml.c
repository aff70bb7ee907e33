/* A stand-in for libnvidia-ml.so.1 that plays power in closed form. What a spec file says, and why: README.md here.
 *
 * Everything is an integer: power in mW, time in us, and the integral doubled, in units of 2 nJ, so that standin/nvml.py
 * can compute the very same numbers. Struct layouts and codes are those of nvml.h (nvidia-nvml-dev 13.5.37).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 16, MAX_TERMS = 8, MAX_FAULTS = 64, MAX_FUNCTIONS = 64, MAX_MIGS = 8, MAX_PROCESSES = 16, TEXT = 96 };
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3 };
enum { NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { ENERGY = 83, AVERAGE = 185, INSTANT = 186 };
enum { AVERAGE_WINDOW_US = 1000000 };
#define API __attribute__((visibility("default")))

typedef int64_t i64;
typedef __int128 i128;
typedef unsigned int nvml_return;

struct term {
    enum { CONST, SQUARE, RAMP } shape;
    i64 argument[4];
};

struct fault { /* `name` answers `code` from from_us until until_us */
    char name[TEXT];
    int code;
    i64 from_us, until_us;
};

struct lie { /* `what` (power, counter) shows something else from from_us until until_us */
    enum { READS, HOLDS, RESTARTS } how;
    char what[16];
    i64 value, from_us, until_us;
};

struct delay { /* `name` takes so long, in real time; INT64_MAX: until standin_let_go */
    char name[TEXT];
    i64 us, from_us, until_us;
};

struct mig {
    char uuid[TEXT], profile[32];
    int gpu_instance, compute_instance, slices;
};

struct process { /* in the list `kind` of the board (mig -1) or of one of its MIG devices */
    char kind[16];
    int mig, pid;
    i64 from_us, until_us;
};

struct gpu {
    char name[TEXT], uuid[TEXT], bus[32];
    int arch, is_c2c, power_type, energy_type;
    unsigned limit_mw;
    i64 power_period_us, usage_window_us, counter_period_us, counter_offset_mj, power_offset_mw;
    struct term terms[MAX_TERMS];
    int n_terms;
    struct fault faults[MAX_FAULTS];
    int n_faults;
    struct lie lies[MAX_FAULTS];
    int n_lies;
    struct delay delays[MAX_FAULTS];
    int n_delays;
    int mig_slices, n_migs, n_processes; /* mig_slices 0: no MIG mode */
    struct mig migs[MAX_MIGS];
    struct process processes[MAX_PROCESSES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int references, n_gpus, n_faults, clock_fd = -1;
static i64 epoch_us;
static char driver[TEXT];
static struct gpu gpus[MAX_GPUS];
static struct fault faults[MAX_FAULTS]; /* of calls that concern no GPU */
static struct delay delays[MAX_FAULTS]; /* likewise */
static int n_delays;
static volatile int is_let_go;
static char failing_once[TEXT]; /* the next call of it that concerns a GPU answers code_once */
static int code_once;
static struct { const char *name; unsigned long calls; } counts[MAX_FUNCTIONS];

/* ---- time and traces ---- */

static i64 now_us(void)
{
    i64 us;
    struct timespec ts;
    if (clock_fd >= 0 && pread(clock_fd, &us, sizeof us, 0) == (ssize_t)sizeof us)
        return us - epoch_us;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (i64)ts.tv_sec * 1000000 + ts.tv_nsec / 1000 - epoch_us;
}

static i128 floor_div(i128 a, i128 b) /* b > 0 */
{
    return a / b - (a % b < 0);
}

static i64 clamp(i64 t, i64 low, i64 high)
{
    return t < low ? low : t > high ? high : t;
}

static i64 power_of(const struct term *term, i64 t)
{
    const i64 *a = term->argument;
    switch (term->shape) {
    case CONST: return a[0];
    case SQUARE: return t % a[2] < a[2] / 2 ? a[1] : a[0];          /* low high period: high first */
    default: return a[0] + (i64)floor_div((i128)(a[1] - a[0]) * (clamp(t, a[2], a[3]) - a[2]), a[3] - a[2]); /* p0 p1 t0 t1 */
    }
}

static i128 twice_integral_of(const struct term *term, i64 t)
{
    const i64 *a = term->argument;
    i128 high_us, rise_us;
    switch (term->shape) {
    case CONST: return (i128)2 * a[0] * t;
    case SQUARE:
        high_us = (i128)(t / a[2]) * (a[2] / 2) + clamp(t % a[2], 0, a[2] / 2);
        return (i128)2 * a[0] * t + 2 * (a[1] - a[0]) * high_us;
    default:
        rise_us = clamp(t, a[2], a[3]) - a[2];
        return (i128)2 * a[0] * t + floor_div((a[1] - a[0]) * rise_us * rise_us, a[3] - a[2])
             + (t > a[3] ? (i128)2 * (a[1] - a[0]) * (t - a[3]) : 0);
    }
}

static i64 stepped(i64 t, i64 period_us)
{
    return period_us > 0 ? t - t % period_us : t;
}

static i64 power_mw(const struct gpu *gpu, i64 t)
{
    i64 sum = 0;
    for (int i = 0; i < gpu->n_terms; i++) sum += power_of(&gpu->terms[i], t);
    return sum;
}

static i128 twice_integral(const struct gpu *gpu, i64 t)
{
    i128 sum = 0;
    for (int i = 0; i < gpu->n_terms; i++) sum += twice_integral_of(&gpu->terms[i], t);
    return sum;
}

static const struct lie *lie_of(const struct gpu *gpu, const char *what, i64 t)
{
    for (int i = gpu->n_lies - 1; i >= 0; i--)
        if (!strcmp(gpu->lies[i].what, what) && t >= gpu->lies[i].from_us && t < gpu->lies[i].until_us) return &gpu->lies[i];
    return NULL;
}

static i64 mean_power_mw(const struct gpu *gpu, i64 t, i64 window_us)
{
    const struct lie *lie = lie_of(gpu, "power", t);
    if (lie && lie->how == READS) return lie->value;
    t = stepped(lie ? lie->from_us : t, gpu->power_period_us);
    i64 start = t > window_us ? t - window_us : 0;
    if (start == t) return gpu->power_offset_mw + power_mw(gpu, t);
    return gpu->power_offset_mw
        + (i64)floor_div(twice_integral(gpu, t) - twice_integral(gpu, start), (i128)2 * (t - start));
}

static i64 counter_mj(const struct gpu *gpu, i64 t)
{
    const struct lie *lie = lie_of(gpu, "counter", t);
    i64 base = -gpu->counter_offset_mj;
    if (lie && lie->how == READS) return lie->value;
    if (lie && lie->how == RESTARTS) base = (i64)(twice_integral(gpu, stepped(lie->from_us, gpu->counter_period_us)) / 2000000);
    if (lie && lie->how == HOLDS) t = lie->from_us;
    return (i64)(twice_integral(gpu, stepped(t, gpu->counter_period_us)) / 2000000) - base;
}

/* ---- the spec file ---- */

static int add_term(struct gpu *gpu, const char *text)
{
    struct term *term = &gpu->terms[gpu->n_terms];
    i64 *a = term->argument;
    char shape[16];
    int n;
    if (gpu->n_terms == MAX_TERMS) return 0;
    n = sscanf(text, "%15s %ld %ld %ld %ld", shape, &a[0], &a[1], &a[2], &a[3]) - 1;
    if (!strcmp(shape, "const") && n == 1) term->shape = CONST;
    else if (!strcmp(shape, "square") && n == 3 && a[2] > 1) term->shape = SQUARE;
    else if (!strcmp(shape, "ramp") && n == 4 && a[3] > a[2]) term->shape = RAMP;
    else return 0;
    gpu->n_terms++;
    return 1;
}

static int add_fault(struct fault *list, int *n, const char *text)
{
    struct fault *fault = &list[*n];
    if (*n == MAX_FAULTS) return 0;
    fault->from_us = 0;
    fault->until_us = INT64_MAX;
    if (sscanf(text, "%95s %d %ld %ld", fault->name, &fault->code, &fault->from_us, &fault->until_us) < 2) return 0;
    (*n)++;
    return 1;
}

static int add_lie(struct gpu *gpu, const char *text)
{
    struct lie *lie = &gpu->lies[gpu->n_lies];
    char how[16];
    if (gpu->n_lies == MAX_FAULTS) return 0;
    if (sscanf(text, "%15s %15s %ld %ld %ld", lie->what, how, &lie->value, &lie->from_us, &lie->until_us) != 5) return 0;
    if (!strcmp(how, "reads")) lie->how = READS;
    else if (!strcmp(how, "holds")) lie->how = HOLDS;
    else if (!strcmp(how, "restarts") && !strcmp(lie->what, "counter")) lie->how = RESTARTS;
    else return 0;
    gpu->n_lies++;
    return 1;
}

static int add_delay(struct delay *list, int *n, const char *text)
{
    struct delay *delay = &list[*n];
    if (*n == MAX_FAULTS) return 0;
    if (sscanf(text, "%95s %ld %ld %ld", delay->name, &delay->us, &delay->from_us, &delay->until_us) != 4) return 0;
    (*n)++;
    return 1;
}

static int add_mig(struct gpu *gpu, const char *text)
{
    struct mig *mig = &gpu->migs[gpu->n_migs];
    if (gpu->n_migs == MAX_MIGS) return 0;
    if (sscanf(text, "%95s %31s %d %d %d", mig->uuid, mig->profile, &mig->gpu_instance, &mig->compute_instance, &mig->slices) != 5) return 0;
    gpu->n_migs++;
    return 1;
}

static int add_process(struct gpu *gpu, const char *text)
{
    struct process *process = &gpu->processes[gpu->n_processes];
    if (gpu->n_processes == MAX_PROCESSES) return 0;
    if (sscanf(text, "%15s %d %d %ld %ld", process->kind, &process->mig, &process->pid, &process->from_us, &process->until_us) != 5) return 0;
    gpu->n_processes++;
    return 1;
}

static int set_text(char *field, size_t size, const char *text)
{
    snprintf(field, size, "%s", text);
    return 1;
}

static int apply(const char *key, const char *value)
{
    struct gpu *gpu = n_gpus ? &gpus[n_gpus - 1] : NULL;
    if (!strcmp(key, "gpu")) {
        if (n_gpus == MAX_GPUS) return 0;
        gpu = &gpus[n_gpus];
        *gpu = (struct gpu){ .arch = 9, .power_type = 1, .energy_type = 3, .limit_mw = 700000 };
        snprintf(gpu->name, TEXT, "Stand-in GPU");
        snprintf(gpu->uuid, TEXT, "GPU-57a4d140-0000-4000-8000-%012d", n_gpus);
        snprintf(gpu->bus, sizeof gpu->bus, "00000000:%02X:00.0", n_gpus + 1);
        n_gpus++;
        return 1;
    }
    if (!strcmp(key, "epoch_us")) { epoch_us = atoll(value); return 1; }
    if (!strcmp(key, "driver")) return set_text(driver, TEXT, value);
    if (!strcmp(key, "fault")) return gpu ? add_fault(gpu->faults, &gpu->n_faults, value) : add_fault(faults, &n_faults, value);
    if (!strcmp(key, "delay")) return gpu ? add_delay(gpu->delays, &gpu->n_delays, value) : add_delay(delays, &n_delays, value);
    if (!gpu) return 0;
    if (!strcmp(key, "lie")) return add_lie(gpu, value);
    if (!strcmp(key, "name")) return set_text(gpu->name, TEXT, value);
    if (!strcmp(key, "uuid")) return set_text(gpu->uuid, TEXT, value);
    if (!strcmp(key, "bus")) return set_text(gpu->bus, sizeof gpu->bus, value);
    if (!strcmp(key, "power")) return add_term(gpu, value);
    if (!strcmp(key, "mig")) return add_mig(gpu, value);
    if (!strcmp(key, "process")) return add_process(gpu, value);
    i64 number = atoll(value);
    if (!strcmp(key, "arch")) gpu->arch = (int)number;
    else if (!strcmp(key, "c2c")) gpu->is_c2c = (int)number;
    else if (!strcmp(key, "mig_slices")) gpu->mig_slices = (int)number;
    else if (!strcmp(key, "limit_mw")) gpu->limit_mw = (unsigned)number;
    else if (!strcmp(key, "power_type")) gpu->power_type = (int)number;
    else if (!strcmp(key, "energy_type")) gpu->energy_type = (int)number;
    else if (!strcmp(key, "power_period_us")) gpu->power_period_us = number;
    else if (!strcmp(key, "usage_window_us")) gpu->usage_window_us = number;
    else if (!strcmp(key, "counter_period_us")) gpu->counter_period_us = number;
    else if (!strcmp(key, "counter_offset_mj")) gpu->counter_offset_mj = number;
    else if (!strcmp(key, "power_offset_mw")) gpu->power_offset_mw = number;
    else return 0;
    return 1;
}

static void load(void)
{
    char line[256], key[32];
    const char *path = getenv("STANDIN_NVML"), *clock_path = getenv("STANDIN_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    n_gpus = n_faults = n_delays = is_let_go = failing_once[0] = 0;
    epoch_us = 0;
    memset(counts, 0, sizeof counts);
    snprintf(driver, TEXT, "570.00.00");
    if (clock_fd >= 0) close(clock_fd);
    clock_fd = clock_path ? open(clock_path, O_RDONLY | O_CLOEXEC) : -1;
    while (file && fgets(line, sizeof line, file)) {
        int length = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%31s %n", key, &length) < 1 || key[0] == '#') continue;
        if (!apply(key, line + length)) {
            fprintf(stderr, "stand-in NVML: %s: cannot use the line \"%s\"\n", path, line);
            abort();
        }
    }
    if (file) fclose(file);
}

/* ---- what every call passes ---- */

static nvml_return fault_of(const struct fault *list, int n, const char *name)
{
    i64 t = now_us();
    for (int i = 0; i < n; i++)
        if ((!strcmp(list[i].name, name) || !strcmp(list[i].name, "*")) && t >= list[i].from_us && t < list[i].until_us)
            return (nvml_return)list[i].code;
    return SUCCESS;
}

static void wait_for(const struct delay *list, int n, const char *name)
{
    i64 t = now_us();
    struct timespec ms = { .tv_nsec = 1000000 };
    for (int i = 0; i < n; i++)
        if ((!strcmp(list[i].name, name) || !strcmp(list[i].name, "*")) && t >= list[i].from_us && t < list[i].until_us)
            for (i64 left_us = list[i].us; left_us > 0 && !is_let_go; left_us -= 1000) nanosleep(&ms, NULL);
}

API void standin_let_go(void)
{
    is_let_go = 1;
}

API void standin_fail_once(const char *name, int code)
{
    snprintf(failing_once, TEXT, "%s", name);
    code_once = code;
}

static void count(const char *name)
{
    for (int i = 0; i < MAX_FUNCTIONS; i++) {
        if (!counts[i].name) counts[i].name = name;
        if (!strcmp(counts[i].name, name)) { counts[i].calls++; return; }
    }
}

API unsigned long standin_calls(const char *name)
{
    for (int i = 0; i < MAX_FUNCTIONS && counts[i].name; i++)
        if (!strcmp(counts[i].name, name)) return counts[i].calls;
    return 0;
}

static const struct mig *mig_of(const void *handle, const struct gpu **board)
{
    for (int i = 0; i < n_gpus; i++)
        for (int j = 0; j < gpus[i].n_migs; j++)
            if (handle == &gpus[i].migs[j]) {
                if (board) *board = &gpus[i];
                return &gpus[i].migs[j];
            }
    return NULL;
}

static nvml_return enter(const char *name, const struct gpu *gpu)
{
    if (!references) return UNINITIALIZED;
    count(name);
    if (!gpu) {
        wait_for(delays, n_delays, name);
        return fault_of(faults, n_faults, name);
    }
    if (mig_of(gpu, NULL)) return NOT_SUPPORTED; /* what a MIG device does answer asks for its board */
    if (gpu < gpus || gpu >= gpus + n_gpus) return INVALID_ARGUMENT;
    wait_for(gpu->delays, gpu->n_delays, name);
    if (!strcmp(failing_once, name)) {
        failing_once[0] = 0;
        return (nvml_return)code_once;
    }
    return fault_of(gpu->faults, gpu->n_faults, name);
}

#define ENTER(gpu)                                     \
    do {                                               \
        nvml_return code_ = enter(__func__, (gpu));    \
        if (code_ != SUCCESS) return code_;            \
    } while (0)

static nvml_return give_text(char *out, unsigned size, const char *text)
{
    if (strlen(text) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return SUCCESS;
}

/* ---- NVML ---- */

API nvml_return nvmlInitWithFlags(unsigned flags)
{
    nvml_return code;
    (void)flags;
    pthread_mutex_lock(&lock);
    if (!references) load();
    wait_for(delays, n_delays, "nvmlInit");
    code = fault_of(faults, n_faults, "nvmlInit");
    references += code == SUCCESS;
    pthread_mutex_unlock(&lock);
    return code;
}

API nvml_return nvmlShutdown(void)
{
    nvml_return code = UNINITIALIZED;
    pthread_mutex_lock(&lock);
    if (references) {
        references--;
        code = SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

API const char *nvmlErrorString(nvml_return code)
{
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}

API nvml_return nvmlSystemGetDriverVersion(char *out, unsigned size)
{
    ENTER(NULL);
    return give_text(out, size, driver);
}

API nvml_return nvmlSystemGetNVMLVersion(char *out, unsigned size)
{
    ENTER(NULL);
    return give_text(out, size, "13.570.00.00");
}

API nvml_return nvmlDeviceGetCount_v2(unsigned *out)
{
    ENTER(NULL);
    *out = (unsigned)n_gpus;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetHandleByUUID(const char *uuid, struct gpu **out)
{
    ENTER(NULL);
    for (int i = 0; i < n_gpus; i++) {
        if (strcmp(gpus[i].uuid, uuid)) continue;
        ENTER(&gpus[i]);
        *out = &gpus[i];
        return SUCCESS;
    }
    return NOT_FOUND;
}

API nvml_return nvmlDeviceGetHandleByPciBusId_v2(const char *bus, struct gpu **out)
{
    ENTER(NULL);
    for (int i = 0; i < n_gpus; i++) {
        if (strcmp(gpus[i].bus, bus)) continue;
        ENTER(&gpus[i]);
        *out = &gpus[i];
        return SUCCESS;
    }
    return NOT_FOUND;
}

API nvml_return nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **out)
{
    ENTER(NULL);
    if (index >= (unsigned)n_gpus) return INVALID_ARGUMENT;
    ENTER(&gpus[index]);
    *out = &gpus[index];
    return SUCCESS;
}

API nvml_return nvmlDeviceGetName(const struct gpu *gpu, char *out, unsigned size)
{
    char name[2 * TEXT];
    const struct mig *mig = mig_of(gpu, &gpu);
    ENTER(gpu);
    snprintf(name, sizeof name, mig ? "%s MIG %s" : "%s", gpu->name, mig ? mig->profile : "");
    return give_text(out, size, name);
}

API nvml_return nvmlDeviceGetUUID(const struct gpu *gpu, char *out, unsigned size)
{
    const struct mig *mig = mig_of(gpu, &gpu);
    ENTER(gpu);
    return give_text(out, size, mig ? mig->uuid : gpu->uuid);
}

struct pci_info {
    char legacy_bus[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

API nvml_return nvmlDeviceGetPciInfo_v3(struct gpu *gpu, struct pci_info *out)
{
    ENTER(gpu);
    memset(out, 0, sizeof *out);
    return give_text(out->bus_id, sizeof out->bus_id, gpu->bus);
}

API nvml_return nvmlDeviceGetArchitecture(struct gpu *gpu, unsigned *out)
{
    ENTER(gpu);
    *out = (unsigned)gpu->arch;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetC2cModeInfoV(struct gpu *gpu, unsigned *out)
{
    ENTER(gpu);
    if (!gpu->is_c2c) return NOT_SUPPORTED;
    *out = 1;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetPowerManagementLimitConstraints(struct gpu *gpu, unsigned *low, unsigned *high)
{
    ENTER(gpu);
    if (!gpu->limit_mw) return NOT_SUPPORTED;
    *low = gpu->limit_mw / 4;
    *high = gpu->limit_mw;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetPowerUsage(struct gpu *gpu, unsigned *out)
{
    ENTER(gpu);
    *out = (unsigned)mean_power_mw(gpu, now_us(), gpu->usage_window_us);
    return SUCCESS;
}

API nvml_return nvmlDeviceGetTotalEnergyConsumption(struct gpu *gpu, uint64_t *out)
{
    ENTER(gpu);
    *out = (uint64_t)counter_mj(gpu, now_us());
    return SUCCESS;
}

struct field_value {
    uint32_t id, scope;
    int64_t timestamp, latency_us;
    unsigned type;
    nvml_return code;
    union {
        double d;
        unsigned ui;
        unsigned long ul;
        unsigned long long ull;
        long long sll;
        int si;
        unsigned short us;
    } value;
};

static void give_number(struct field_value *field, int type, i64 number)
{
    field->type = (unsigned)type;
    field->value.ull = 0xA5A5A5A5A5A5A5A5ull; /* who reads the wrong member reads rubbish */
    switch (type) {
    case 0: field->value.d = (double)number; break;
    case 1: field->value.ui = (unsigned)number; break;
    case 2: field->value.ul = (unsigned long)number; break;
    case 3: field->value.ull = (unsigned long long)number; break;
    case 4: field->value.sll = number; break;
    case 5: field->value.si = (int)number; break;
    case 6: field->value.us = (unsigned short)number; break;
    default: break;
    }
}

API nvml_return nvmlDeviceGetFieldValues(struct gpu *gpu, int n, struct field_value *fields)
{
    i64 t = now_us();
    ENTER(gpu);
    for (int i = 0; i < n; i++) {
        struct field_value *field = &fields[i];
        char name[32];
        snprintf(name, sizeof name, "field:%u", field->id);
        field->timestamp = t;
        field->latency_us = 0;
        field->code = fault_of(gpu->faults, gpu->n_faults, name);
        if (field->code != SUCCESS) continue;
        if (field->id != ENERGY && field->scope != (unsigned)(gpu->is_c2c == 1)) field->code = NOT_SUPPORTED;
        else if (field->id == ENERGY) give_number(field, gpu->energy_type, counter_mj(gpu, t));
        else if (field->id == INSTANT) give_number(field, gpu->power_type, mean_power_mw(gpu, t, 0));
        else if (field->id == AVERAGE) give_number(field, gpu->power_type, mean_power_mw(gpu, t, AVERAGE_WINDOW_US));
        else field->code = NOT_SUPPORTED;
    }
    return SUCCESS;
}

/* ---- MIG ---- */

API nvml_return nvmlDeviceGetMigMode(struct gpu *gpu, unsigned *current, unsigned *pending)
{
    ENTER(gpu);
    *current = *pending = gpu->mig_slices > 0;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetMaxMigDeviceCount(struct gpu *gpu, unsigned *out)
{
    ENTER(gpu);
    *out = (unsigned)gpu->mig_slices;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetMigDeviceHandleByIndex(struct gpu *gpu, unsigned index, struct mig **out)
{
    ENTER(gpu);
    if (index >= (unsigned)gpu->n_migs) return NOT_FOUND;
    *out = &gpu->migs[index];
    return SUCCESS;
}

API nvml_return nvmlDeviceGetGpuInstanceId(const struct gpu *gpu, unsigned *out)
{
    const struct mig *mig = mig_of(gpu, &gpu);
    ENTER(gpu);
    if (!mig) return NOT_SUPPORTED;
    *out = (unsigned)mig->gpu_instance;
    return SUCCESS;
}

API nvml_return nvmlDeviceGetComputeInstanceId(const struct gpu *gpu, unsigned *out)
{
    const struct mig *mig = mig_of(gpu, &gpu);
    ENTER(gpu);
    if (!mig) return NOT_SUPPORTED;
    *out = (unsigned)mig->compute_instance;
    return SUCCESS;
}

struct device_attributes {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gpu_instance_slices, compute_instance_slices;
    unsigned long long memory_mb;
};

API nvml_return nvmlDeviceGetAttributes_v2(const struct gpu *gpu, struct device_attributes *out)
{
    const struct mig *mig = mig_of(gpu, &gpu);
    ENTER(gpu);
    if (!mig) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    out->gpu_instance_slices = out->compute_instance_slices = (unsigned)mig->slices;
    return SUCCESS;
}

/* ---- who uses a GPU ---- */

struct process_info {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};

static nvml_return list(const char *name, const char *kind, const struct gpu *gpu, unsigned *n, struct process_info *out)
{
    i64 t = now_us();
    unsigned found = 0, room = *n;
    const struct mig *mig = mig_of(gpu, &gpu);
    nvml_return code = enter(name, gpu);
    if (code != SUCCESS) return code;
    if (gpu->mig_slices && !mig) return NO_PERMISSION; /* of a whole board in MIG mode: for administrators */
    for (int i = 0; i < gpu->n_processes; i++) {
        const struct process *process = &gpu->processes[i];
        if (strcmp(process->kind, kind) || process->mig != (mig ? (int)(mig - gpu->migs) : -1)) continue;
        if (t < process->from_us || t >= process->until_us) continue;
        if (found < room) out[found] = (struct process_info){ .pid = (unsigned)process->pid };
        found++;
    }
    *n = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

API nvml_return nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *gpu, unsigned *n, struct process_info *out)
{
    return list(__func__, "compute", gpu, n, out);
}

API nvml_return nvmlDeviceGetMPSComputeRunningProcesses_v3(struct gpu *gpu, unsigned *n, struct process_info *out)
{
    return list(__func__, "mps", gpu, n, out);
}

API nvml_return nvmlDeviceGetGraphicsRunningProcesses_v3(struct gpu *gpu, unsigned *n, struct process_info *out)
{
    return list(__func__, "graphics", gpu, n, out);
}
