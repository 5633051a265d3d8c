/*
 * A libnvidia-ml.so.1 for tests: as many GPUs as a text file says, with the figures that it says, read anew at every
 * call. Only what elastictop asks is here; the ABI is that of NVIDIA's documentation.
 *
 * $STUB_NVML names the file. One setting per line; in lines about a GPU the first number is its index:
 *   gpus N                   init_ms MS               init_error CODE
 *   util I PCT               mem I USED_MIB TOTAL_MIB temp I C            power I W
 *   clocks I SM MEM          throttle I HEX           proc I PID MIB [GI] field I ID VALUE
 *   mig I PARTS              lost I                   hang I              unsupported I NAME
 *   xid NUMBER I XID         an event, once for each NUMBER that is greater than the last
 * The start takes init_ms, or until that line is gone.
 * Every call appends "NAME I" to $STUB_NVML.calls, and one that hangs "hangs -1".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef int ret;
typedef struct device { int gpu, part; } *device;

enum { OK, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, LOST = 15 };
#define MOST 16
#define PARTS 7

static struct device devices[MOST][PARTS + 1];
static int event_set;

static const char *script(void) {
    const char *path = getenv("STUB_NVML");
    return path ? path : "/nonexistent";
}

static void nap(int ms) {
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    nanosleep(&t, NULL);
}

/* The n-th line that is "name index", or "name" where index is -1; what follows goes to rest. */
static int line(const char *name, int index, int n, char *rest, size_t room) {
    FILE *file = fopen(script(), "re");
    char text[256];
    int found = 0;
    while (file && !found && fgets(text, sizeof text, file)) {
        char word[64];
        int number, used = 0;
        if (index < 0 ? sscanf(text, "%63s %n", word, &used) < 1
                      : sscanf(text, "%63s %d %n", word, &number, &used) < 2 || number != index)
            continue;
        if (strcmp(word, name) || n-- > 0) continue;
        if (rest) snprintf(rest, room, "%s", text + used);
        found = 1;
    }
    if (file) fclose(file);
    return found;
}

static u64 figure(const char *name, int index, int at, u64 otherwise) {
    char rest[256], *place = rest;
    if (!line(name, index, 0, rest, sizeof rest)) return otherwise;
    while (at-- > 0) strtoull(place, &place, 0);
    return strtoull(place, NULL, 0);
}

static void note(const char *name, int gpu) {
    char path[512], text[128];
    snprintf(path, sizeof path, "%s.calls", script());
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int length = snprintf(text, sizeof text, "%s %d\n", name, gpu);
    if (file < 0) return;
    ssize_t ignored = write(file, text, length);
    (void)ignored;
    close(file);
}

static ret called(const char *name, device d) {
    char text[256];
    note(name, d ? d->gpu : -1);
    if (!d) return OK;
    if (line("hang", d->gpu, 0, NULL, 0)) note("hangs", -1);
    while (line("hang", d->gpu, 0, NULL, 0)) nap(5);
    if (line("lost", d->gpu, 0, NULL, 0)) return LOST;
    for (int n = 0; line("unsupported", d->gpu, n, text, sizeof text); n++)
        if (!strcmp(strtok(text, "\n"), name)) return UNSUPPORTED;
    return OK;
}

#define ASK(d) do { ret r_ = called(__func__, d); if (r_) return r_; } while (0)

ret nvmlInit_v2(void) {
    called(__func__, NULL);
    for (u64 ms = figure("init_ms", -1, 0, 0); ms > 0 && line("init_ms", -1, 0, NULL, 0); ms -= ms < 5 ? ms : 5) nap(5);
    return figure("init_error", -1, 0, 0);
}
ret nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(ret code) { (void)code; return "an error of the stub"; }

ret nvmlSystemGetDriverVersion(char *text, u32 room) {
    snprintf(text, room, "580.95.05");
    return OK;
}
ret nvmlDeviceGetCount_v2(u32 *count) {
    ASK(NULL);
    *count = figure("gpus", -1, 0, 0);
    return OK;
}
ret nvmlDeviceGetHandleByIndex_v2(u32 index, device *d) {
    if (index >= MOST) return INVALID;
    *d = &devices[index][0];
    (*d)->gpu = index, (*d)->part = 0;
    ASK(*d);
    return OK;
}
ret nvmlDeviceGetName(device d, char *text, u32 room) {
    ASK(d);
    snprintf(text, room, d->part ? "Stub GPU MIG 1g.18gb" : "Stub GPU");
    return OK;
}
ret nvmlDeviceGetUUID(device d, char *text, u32 room) {
    ASK(d);
    if (d->part) snprintf(text, room, "MIG-%04d-%d", d->gpu, d->part - 1);
    else snprintf(text, room, "GPU-%04d", d->gpu);
    return OK;
}

struct pci { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; };
ret nvmlDeviceGetPciInfo_v3(device d, struct pci *pci) {
    ASK(d);
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x18 + d->gpu;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return OK;
}
ret nvmlDeviceGetEnforcedPowerLimit(device d, u32 *milliwatts) {
    ASK(d);
    *milliwatts = 700000;
    return OK;
}
ret nvmlDeviceGetMigMode(device d, u32 *now, u32 *pending) {
    ASK(d);
    *now = *pending = figure("mig", d->gpu, 0, 0) > 0;
    return OK;
}
ret nvmlDeviceGetMaxMigDeviceCount(device d, u32 *count) {
    ASK(d);
    *count = PARTS;
    return OK;
}
ret nvmlDeviceGetMigDeviceHandleByIndex(device d, u32 index, device *part) {
    ASK(d);
    if (index >= figure("mig", d->gpu, 0, 0) || index >= PARTS) return NOT_FOUND;
    *part = &devices[d->gpu][index + 1];
    (*part)->gpu = d->gpu, (*part)->part = index + 1;
    return OK;
}
ret nvmlDeviceGetGpuInstanceId(device d, u32 *id) {
    ASK(d);
    *id = d->part + 6;
    return OK;
}

struct utilization { u32 gpu, memory; };
ret nvmlDeviceGetUtilizationRates(device d, struct utilization *told) {
    ASK(d);
    if (figure("mig", d->gpu, 0, 0)) return UNSUPPORTED;
    told->gpu = figure("util", d->gpu, 0, 90);
    told->memory = 40;
    return OK;
}
struct memory_v2 { u32 version; u64 total, reserved, free, used; };
ret nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *told) {
    ASK(d);
    u64 split = d->part ? 8 : 1;
    told->total = (figure("mem", d->gpu, 1, 81920) << 20) / split;
    told->used = (figure("mem", d->gpu, 0, 1024) << 20) / split;
    told->reserved = 0, told->free = told->total - told->used;
    return OK;
}
struct memory { u64 total, free, used; };
ret nvmlDeviceGetMemoryInfo(device d, struct memory *told) {
    ASK(d);
    told->total = figure("mem", d->gpu, 1, 81920) << 20;
    told->used = figure("mem", d->gpu, 0, 1024) << 20;
    told->free = told->total - told->used;
    return OK;
}
ret nvmlDeviceGetTemperature(device d, int sensor, u32 *celsius) {
    (void)sensor;
    ASK(d);
    *celsius = figure("temp", d->gpu, 0, 60);
    return OK;
}
ret nvmlDeviceGetPowerUsage(device d, u32 *milliwatts) {
    ASK(d);
    *milliwatts = figure("power", d->gpu, 0, 640) * 1000;
    return OK;
}
ret nvmlDeviceGetClockInfo(device d, int clock, u32 *mhz) {
    ASK(d);
    *mhz = figure("clocks", d->gpu, clock == 2, clock == 2 ? 2600 : 1755);
    return OK;
}
ret nvmlDeviceGetCurrentClocksThrottleReasons(device d, u64 *bits) {
    ASK(d);
    *bits = figure("throttle", d->gpu, 0, 0);
    return OK;
}

struct process { u32 pid; u64 used; u32 gpu_instance, compute_instance; };
ret nvmlDeviceGetComputeRunningProcesses_v3(device d, u32 *count, struct process *told) {
    char text[256];
    u32 found = 0, room = *count;
    ASK(d);
    for (int n = 0; line("proc", d->gpu, n, text, sizeof text); n++) {
        u32 pid, instance = ~0u;
        unsigned long mib;
        if (sscanf(text, "%u %lu %u", &pid, &mib, &instance) < 2) continue;
        if (d->part && instance != (u32)d->part + 6) continue;
        if (found < room) told[found] = (struct process){ pid, (u64)mib << 20, instance, ~0u };
        found++;
    }
    *count = found;
    return found > room ? TOO_SMALL : OK;
}

struct value { u32 id, scope; long long at, latency; int type; int code; union { u32 number; u64 large; double real; } v; };
ret nvmlDeviceGetFieldValues(device d, int count, struct value *values) {
    char text[256];
    ASK(d);
    for (int i = 0; i < count; i++) {
        values[i].code = UNSUPPORTED;
        for (int n = 0; line("field", d->gpu, n, text, sizeof text); n++) {
            u32 id;
            u64 value;
            if (sscanf(text, "%u %llu", &id, &value) != 2 || id != values[i].id) continue;
            values[i].code = OK, values[i].type = 3, values[i].v.large = value;
        }
    }
    return OK;
}

ret nvmlEventSetCreate(void **set) {
    *set = &event_set;
    return OK;
}
ret nvmlEventSetFree(void *set) { (void)set; return OK; }
ret nvmlDeviceRegisterEvents(device d, u64 types, void *set) {
    (void)types, (void)set;
    ASK(d);
    return OK;
}
struct event { device device; u64 type, data; u32 gpu_instance, compute_instance; };
ret nvmlEventSetWait_v2(void *set, struct event *told, u32 patience_ms) {
    static unsigned long last;
    char text[256];
    (void)set;
    for (u32 waited = 0; waited <= patience_ms; waited += 5, nap(5)) {
        for (int n = 0; line("xid", -1, n, text, sizeof text); n++) {
            unsigned long number;
            int gpu;
            u64 xid;
            if (sscanf(text, "%lu %d %llu", &number, &gpu, &xid) != 3 || number <= last) continue;
            last = number;
            *told = (struct event){ gpu >= 0 && gpu < MOST ? &devices[gpu][0] : NULL, 8, xid, ~0u, ~0u };
            return OK;
        }
    }
    return TIMEOUT;
}
