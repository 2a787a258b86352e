/* What a kernel asks of the program that it runs in: threads and scratch memory.
 *
 * TVM's runtime would answer with a thread pool of its own, whose workers spin beside those of PyTorch's OpenMP until
 * both crawl. These answers use the OpenMP library that PyTorch itself has loaded: one pool, sized by
 * torch.set_num_threads, and no TVM runtime in the process. The library's entry points are handed over at start.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct { void *sync_handle; int32_t num_task; } ParallelGroup;
typedef int (*ParallelBody)(int task, ParallelGroup *group, void *data);
typedef struct { ParallelBody body; void *data; int failed; } Launch;

static void (*run_parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);
static int (*thread_count)(void);
static int (*most_threads)(void);

void shiftadd_use_openmp(void *parallel, void *number, void *count, void *most) {
    run_parallel = parallel;
    thread_number = number;
    thread_count = count;
    most_threads = most;
}

static void run_task(void *argument) {
    Launch *launch = argument;
    ParallelGroup group = {NULL, thread_count()};
    if (launch->body(thread_number(), &group, launch->data)) launch->failed = -1;
}

int shiftadd_parallel_launch(ParallelBody body, void *data, int tasks) {
    int threads = tasks > 0 ? tasks : most_threads();
    if (threads == 1) {
        ParallelGroup alone = {NULL, 1};
        return body(0, &alone, data);
    }
    Launch launch = {body, data, 0};
    run_parallel(run_task, &launch, (unsigned)threads, 0);
    return launch.failed;
}

void *shiftadd_allocate(int device_type, int device_id, uint64_t bytes, int dtype_code, int dtype_bits) {
    (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

int shiftadd_free(int device_type, int device_id, void *memory) {
    (void)device_type, (void)device_id;
    free(memory);
    return 0;
}
