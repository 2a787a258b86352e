/* Runs one kernel in a process of its own: arguments from a file, results into another.
 *
 * The file holds, for every tensor in turn, DLPack's type code and bits, the number of axes, the axes, and the bytes.
 * There is no TVM library in the process: what a kernel asks of its host is answered here, in one thread.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DataType;
typedef struct {
    void *data;
    Device device;
    int32_t ndim;
    DataType dtype;
    int64_t *shape, *strides;
    uint64_t offset;
} Tensor;
typedef struct { int32_t type_index; uint32_t padding; union { int64_t integer; void *pointer; } value; } Any;
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Body)(int, Group *, void *);

enum { TENSOR = 7, CPU = 1, MOST = 16 };

int KERNEL(void *self, Any *arguments, int32_t count, Any *result);

static int launch(Body body, void *data, int tasks) {
    Group alone = {NULL, 1};
    (void)tasks;
    return body(0, &alone, data);
}
static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
    (void)type, (void)id, (void)code, (void)bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static int release(int type, int id, void *memory) {
    (void)type, (void)id;
    free(memory);
    return 0;
}
void *__TVMBackendParallelLaunch = launch;
void *__TVMBackendAllocWorkspace = allocate;
void *__TVMBackendFreeWorkspace = release;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    fprintf(stderr, "%s: ", kind);
    for (int32_t i = 0; i < count; i++) fputs(parts[i], stderr);
    fputc('\n', stderr);
}

static int64_t next_integer(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) exit(3);
    return value;
}

static size_t read_tensor(FILE *file, Tensor *tensor) {
    int64_t elements = 1, code = next_integer(file), bits = next_integer(file);
    *tensor = (Tensor){.device = {CPU, 0}, .ndim = (int32_t)next_integer(file)};
    tensor->dtype = (DataType){(uint8_t)code, (uint8_t)bits, 1};
    tensor->shape = malloc(2 * sizeof(int64_t) * (size_t)tensor->ndim);
    tensor->strides = tensor->shape + tensor->ndim;
    for (int32_t i = 0; i < tensor->ndim; i++) tensor->shape[i] = next_integer(file);
    for (int32_t i = tensor->ndim - 1; i >= 0; elements *= tensor->shape[i--]) tensor->strides[i] = elements;
    size_t bytes = (size_t)(elements * bits / 8);
    tensor->data = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (fread(tensor->data, 1, bytes, file) != bytes) exit(3);
    return bytes;
}

int main(int count, char **names) {
    if (count != 3) return 2;
    FILE *input = fopen(names[1], "rb"), *output = fopen(names[2], "wb");
    if (!input || !output) return 2;
    Tensor tensors[MOST];
    size_t bytes[MOST];
    Any arguments[MOST] = {0}, result = {0};
    int32_t number = (int32_t)next_integer(input);
    for (int32_t i = 0; i < number; i++) {
        bytes[i] = read_tensor(input, &tensors[i]);
        arguments[i] = (Any){.type_index = TENSOR, .value.pointer = &tensors[i]};
    }
    if (KERNEL(NULL, arguments, number, &result)) return 1;
    for (int32_t i = 0; i < number; i++) fwrite(tensors[i].data, 1, bytes[i], output);
    return fclose(output) ? 2 : 0;
}
