/* A CUDA driver without a GPU: what Sublet's benchmark calls, on this machine's memory and a clock that it reckons itself.

   Copies take size / bandwidth, launches take flops / speed; each allocation is counted, so that a test sees what was not
   given back. `fake_trouble` makes a call fail, hang, or do its work wrongly. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TO_DEVICE 25e9
#define FROM_DEVICE 20e9
#define INSIDE 3000e9
#define SPEED 50e12
#define FLOPS_A_ROUND 256.0
#define UNITS 4

static char failing[64], hanging[64], lying[64];
static double now_ms, events[256];
static int taken, event_count;
static size_t biggest;

void fake_trouble(const char *fail, const char *hang, const char *lie) {
    snprintf(failing, sizeof failing, "%s", fail);
    snprintf(hanging, sizeof hanging, "%s", hang);
    snprintf(lying, sizeof lying, "%s", lie);
}

int fake_taken(void) { return taken; }

static void read_file(void) {
    char path[4096];
    const char *folder = getenv("LD_LIBRARY_PATH");
    FILE *file;
    if (folder == NULL) return;
    snprintf(path, sizeof path, "%s/hang", folder);
    if ((file = fopen(path, "r")) == NULL) return;
    if (fscanf(file, "%63s", hanging) != 1) hanging[0] = 0;
    fclose(file);
}

static int met(const char *name) {
    read_file();
    while (strcmp(name, hanging) == 0) sleep(1);
    return strcmp(name, failing) == 0 ? 719 : 0;
}

#define MEET(name) do { int code = met(name); if (code) return code; } while (0)

int cuInit(unsigned flags) { MEET("cuInit"); return flags != 0; }
int cuGetErrorName(int code, const char **text) {
    MEET("cuGetErrorName");
    if (code != 719) return 1;
    *text = "CUDA_ERROR_LAUNCH_FAILED";
    return 0;
}
int cuDeviceGetCount(int *count) { MEET("cuDeviceGetCount"); *count = strcmp(lying, "cuDeviceGetCount") ? 2 : 0; return 0; }
int cuDeviceGet(int *device, int ordinal) { MEET("cuDeviceGet"); *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    MEET("cuDeviceGetName");
    snprintf(name, (size_t)length, "NVIDIA H100 80GB HBM3%s", strcmp(lying, "cuDeviceGetName") ? "" : "\x1b[31m\xff");
    return device;
}
int cuDeviceTotalMem_v2(size_t *size, int device) { MEET("cuDeviceTotalMem_v2"); *size = 81559ull << 20; return device; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    MEET("cuDeviceGetAttribute");
    *value = which == 16 ? UNITS : which == 75 ? 9 : which == 76 ? 0 : -1;
    return device;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    MEET("cuDevicePrimaryCtxRetain");
    *context = &taken;
    taken++;
    return device;
}
int cuDevicePrimaryCtxRelease_v2(int device) { MEET("cuDevicePrimaryCtxRelease_v2"); taken--; return device; }
int cuCtxSetCurrent(void *context) { MEET("cuCtxSetCurrent"); return context != &taken; }
int cuCtxSynchronize(void) { MEET("cuCtxSynchronize"); return 0; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *whole) {
    MEET("cuMemGetInfo_v2");
    *free_bytes = 64ull << 20; /* so that a test needs no gigabytes */
    *whole = 81559ull << 20;
    return 0;
}
static int take(uint64_t *place, size_t size) {
    void *found = malloc(size);
    if (found == NULL) return 2;
    biggest = size > biggest ? size : biggest;
    taken++;
    *place = (uint64_t)(uintptr_t)found;
    return 0;
}
int cuMemAlloc_v2(uint64_t *place, size_t size) { MEET("cuMemAlloc_v2"); return take(place, size); }
int cuMemFree_v2(uint64_t place) { MEET("cuMemFree_v2"); free((void *)(uintptr_t)place); taken--; return 0; }
int cuMemAllocHost_v2(void **place, size_t size) {
    uint64_t found;
    MEET("cuMemAllocHost_v2");
    if (take(&found, size)) return 2;
    *place = (void *)(uintptr_t)found;
    return 0;
}
int cuMemFreeHost(void *place) { MEET("cuMemFreeHost"); free(place); taken--; return 0; }
static int copy(void *to, const void *from, size_t size, double rate) {
    memcpy(to, from, size);
    now_ms += (double)size / rate * 1000;
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
    MEET("cuMemcpyHtoDAsync_v2");
    (void)stream;
    return copy((void *)(uintptr_t)to, from, size, TO_DEVICE);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
    MEET("cuMemcpyDtoHAsync_v2");
    (void)stream;
    copy(to, (void *)(uintptr_t)from, size, FROM_DEVICE);
    if (strcmp(lying, "cuMemcpyDtoHAsync_v2") == 0) ((char *)to)[17] ^= 1;
    return 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream) {
    MEET("cuMemcpyDtoDAsync_v2");
    (void)stream;
    return copy((void *)(uintptr_t)to, (void *)(uintptr_t)from, size, INSIDE / 2);
}
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) {
    MEET("cuMemcpyDtoH_v2");
    memcpy(to, (void *)(uintptr_t)from, size);
    return 0;
}
int cuEventCreate(void **event, unsigned flags) {
    MEET("cuEventCreate");
    *event = &events[event_count++ % 256];
    taken++;
    return flags != 0;
}
int cuEventDestroy_v2(void *event) { MEET("cuEventDestroy_v2"); taken--; return event == NULL; }
int cuEventRecord(void *event, void *stream) { MEET("cuEventRecord"); *(double *)event = now_ms; return stream != NULL; }
int cuEventSynchronize(void *event) { MEET("cuEventSynchronize"); return event == NULL; }
int cuEventElapsedTime(float *milliseconds, void *first, void *last) {
    MEET("cuEventElapsedTime");
    *milliseconds = (float)(*(double *)last - *(double *)first);
    if (strcmp(lying, "cuEventElapsedTime") == 0) *milliseconds = -1;
    return 0;
}
int cuModuleLoadData(void **module, const char *image) {
    MEET("cuModuleLoadData");
    if (strstr(image, ".target sm_") == NULL) return 218;
    if (strcmp(lying, "cuModuleLoadData") == 0 && strstr(image, "sm_75") != NULL) return 222; /* an old driver */
    *module = &now_ms;
    taken++;
    return 0;
}
int cuModuleUnload(void *module) { MEET("cuModuleUnload"); taken--; return module != &now_ms; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    MEET("cuModuleGetFunction");
    *function = module;
    return strcmp(name, "sublet_multiply_add") != 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **given, void **extra) {
    size_t threads = (size_t)gx * gy * gz * bx * by * bz, place;
    float *out, value = strcmp(lying, "cuLaunchKernel") ? 8.0f : 7.5f;
    MEET("cuLaunchKernel");
    if (function == NULL || shared || stream != NULL || extra != NULL) return 1;
    if (threads * sizeof(float) > biggest) return 700;
    out = (float *)(uintptr_t)*(uint64_t *)given[0];
    for (place = 0; place < threads; place++) out[place] = value;
    now_ms += (double)threads * *(uint32_t *)given[1] * FLOPS_A_ROUND / SPEED * 1000;
    return 0;
}
