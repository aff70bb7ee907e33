/* A stand-in for libcuda.so.1: shows the devices whose UUIDs (32 hex digits each, with commas) are in $STANDIN_CUDA. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3 };
#define API __attribute__((visibility("default")))

static const char *uuids; /* set by cuInit */

API int cuInit(unsigned flags)
{
    if (flags) return INVALID_VALUE;
    uuids = getenv("STANDIN_CUDA");
    return uuids ? SUCCESS : INVALID_VALUE;
}

API int cuDeviceGetCount(int *out)
{
    if (!uuids) return NOT_INITIALIZED;
    *out = (int)(strlen(uuids) + 1) / 33;
    return SUCCESS;
}

API int cuDeviceGet(int *out, int ordinal)
{
    int n;
    int code = cuDeviceGetCount(&n);
    if (code == SUCCESS && (ordinal < 0 || ordinal >= n)) code = INVALID_VALUE;
    if (code == SUCCESS) *out = ordinal;
    return code;
}

API int cuDeviceGetUuid_v2(unsigned char *out, int device)
{
    if (!uuids) return NOT_INITIALIZED;
    for (int i = 0; i < 16; i++)
        if (sscanf(uuids + 33 * device + 2 * i, "%2hhx", &out[i]) != 1) return INVALID_VALUE;
    return SUCCESS;
}
