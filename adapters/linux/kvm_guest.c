/*
 * The virtual machine behind linux:kvm, by ioctls alone.
 *
 * It starts in 64-bit mode at the lowest privilege, with page tables that are never changed, and
 * stays there: some hosts run nothing else of a guest directly.  It stops by an OUT, which both
 * the I/O privilege level and the bitmap of its task state allow it (some hosts look only at the
 * latter), and has neither interrupts nor exceptions of its own.
 *
 * Guest addresses: its own memory at OWN, the shared memory at SHARED, and the arena where the
 * process has it, so that device and process use the same addresses.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm_guest.h"
#include "process.h"

#ifdef __x86_64__

/* Its own memory: where things are in it, and how much there is. */
enum {
    CODE_AT = 0x0000,
    TASK_AT = 0x1000,
    RING_AT = 0x2000,
    TABLES_AT = 0x4000,
    TABLES = 12,
    OWN_SIZE = TABLES_AT + TABLES * 4096,
};

_Static_assert(sizeof(struct guest_ring) <= TABLES_AT - RING_AT, "ring");

/* Guest-physical places; far below the 36 bits of a processor that says nothing of its width. */
#define OWN 0x200000ull
#define SHARED 0x100000000ull
#define ARENA 0x200000000ull

/* The task state holds at this offset where its bitmap of forbidden ports is, here right behind
 * it; the byte behind the bitmap must be all ones. */
#define TASK_BITMAP_POINTER 102
#define TASK_SIZE 104
#define PORTS 64

/* The numbers of the memory slots. */
enum { SLOT_OWN, SLOT_SHARED, SLOT_ARENA };

/*
 * rdi ring, rbx the last command that is complete, rsi the command at hand and r8 to r11 its
 * address, value, expected value and place for data, rdx how many words, r12 how many are done.
 * Faults are allowed at the labels guest_at_* alone.  The exchange that completes a command is
 * also a barrier: either the guest sees that it is awaited, or who waits sees the completion.
 */
__asm__(".pushsection .rodata\n"
        "guest_code:\n"
        "        mov     $40000, %ecx\n"
        "1:      cmp     (%rdi), %rbx\n"
        "        jne     2f\n"
        "        sub     $1, %ecx\n"
        "        jnz     1b\n"
        "        out     %al, $0x10\n"
        "        jmp     guest_code\n"
        "2:      mov     %ebx, %esi\n"
        "        and     $63, %esi\n"
        "        shl     $6, %esi\n"
        "        lea     64(%rdi,%rsi), %rsi\n"
        "        mov     8(%rsi), %r8\n"
        "        mov     16(%rsi), %rdx\n"
        "        mov     24(%rsi), %r9\n"
        "        mov     32(%rsi), %r10\n"
        "        mov     40(%rsi), %r11\n"
        "        movq    $0, 56(%rsi)\n"
        "        xor     %r12d, %r12d\n"
        "        mov     (%rsi), %rax\n"
        "        cmp     $1, %rax\n"
        "        jb      10f\n"
        "        je      11f\n"
        "        cmp     $3, %rax\n"
        "        jb      12f\n"
        "        je      13f\n"
        "        cmp     $4, %rax\n"
        "        je      14f\n"
        "        jmp     15f\n"

        "guest_at_load:\n"
        "10:     mov     (%r8,%r12,8), %rax\n"
        "        mov     %rax, (%r11,%r12,8)\n"
        "        add     $1, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      10b\n"
        "        jmp     20f\n"

        "11:     lea     (%r9,%r12), %rax\n"
        "guest_at_store:\n"
        "        mov     %rax, (%r8,%r12,8)\n"
        "        add     $1, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      11b\n"
        "        jmp     20f\n"

        "12:     mov     %r9, %rax\n"
        "guest_at_add:\n"
        "        lock xadd %rax, (%r8,%r12,8)\n"
        "        mov     %rax, (%r11,%r12,8)\n"
        "        add     $1, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      12b\n"
        "        jmp     20f\n"

        "13:     lea     (%r10,%r12), %rax\n"
        "        lea     (%r9,%r12), %r13\n"
        "guest_at_exchange:\n"
        "        lock cmpxchg %r13, (%r8,%r12,8)\n"
        "        mov     %rax, (%r11,%r12,8)\n"
        "        add     $1, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      13b\n"
        "        jmp     20f\n"

        "guest_at_touch:\n"
        "14:     mov     (%r8,%r12,8), %rax\n"
        "        add     $512, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      14b\n"
        "        jmp     20f\n"

        "guest_at_touch_write:\n"
        "15:     lock addq $0, (%r8,%r12,8)\n"
        "        add     $512, %r12\n"
        "        cmp     %rdx, %r12\n"
        "        jb      15b\n"

        "20:     mov     %r12, 48(%rsi)\n"
        "        add     $1, %rbx\n"
        "        mov     %rbx, %rax\n"
        "        xchg    %rax, 8(%rdi)\n"
        "        cmpq    $0, 16(%rdi)\n"
        "        je      guest_code\n"
        "        out     %al, $0x10\n"
        "        jmp     guest_code\n"

        /* The host goes on here after a fault. */
        "guest_on_fault:\n"
        "        movq    $1, 56(%rsi)\n"
        "        jmp     20b\n"
        "guest_end:\n"
        ".popsection\n");

extern const char guest_code[], guest_end[], guest_on_fault[];
extern const char guest_at_load[], guest_at_store[], guest_at_add[], guest_at_exchange[],
    guest_at_touch[], guest_at_touch_write[];

_Static_assert(sizeof(struct guest_command) == 64 && offsetof(struct guest_ring, commands) == 64,
               "as the code above has it");

static const char *const accesses[] = {guest_at_load,     guest_at_store, guest_at_add,
                                       guest_at_exchange, guest_at_touch, guest_at_touch_write};

static uint64_t code_address(const char *label)
{
    return OWN + CODE_AT + (uint64_t)(label - guest_code);
}

/* ---- Page tables ---- */

/* Present, writable, for users, and already accessed and dirty. */
#define ENTRY 0x67ull
#define LARGE_ENTRY (ENTRY | 0x80)

/* The entry for an address in a table, of a level from 3 (the root's) down to 1; where a table
 * is missing below it the next free one is put there. */
static uint64_t *next_table(struct guest *guest, uint64_t *table, unsigned level, uint64_t address,
                            unsigned *tables)
{
    uint64_t *entry = &table[address >> (12 + 9 * level) & 511];

    if (!*entry)
        *entry = (OWN + TABLES_AT + (*tables)++ * 4096ull) | ENTRY;
    return (uint64_t *)(guest->memory + (*entry & ~4095ull) - OWN);
}

static void map_range(struct guest *guest, uint64_t address, uint64_t physical, size_t size,
                      unsigned *tables)
{
    uint64_t *root = (uint64_t *)(guest->memory + TABLES_AT);

    for (uint64_t at = 0; at < size; at += HUGE_PAGE) {
        uint64_t *table = next_table(guest, root, 3, address + at, tables);
        table = next_table(guest, table, 2, address + at, tables);
        table[(address + at) >> 21 & 511] = (physical + at) | LARGE_ENTRY;
    }
}

/* With room for an arena that crosses a boundary at every level. */
_Static_assert(TABLES >= 1 + 2 + 2 + 2 + 1 + ARENA_LIMIT / (512 * HUGE_PAGE) + 1, "tables");

static void fill_memory(struct guest *guest)
{
    uint16_t bitmap = TASK_SIZE;
    unsigned tables = 1; /* the first is the root */

    memcpy(guest->memory + TASK_AT + TASK_BITMAP_POINTER, &bitmap, sizeof(bitmap));
    guest->memory[TASK_AT + TASK_SIZE + PORTS / 8] = 0xff;
    memcpy(guest->memory + CODE_AT, guest_code, (size_t)(guest_end - guest_code));
    guest->ring = (struct guest_ring *)(guest->memory + RING_AT);
    map_range(guest, OWN, OWN, OWN_SIZE, &tables);
    map_range(guest, SHARED, SHARED, SHARED_SIZE, &tables);
    map_range(guest, (uintptr_t)mirror.arena, ARENA, ARENA_LIMIT, &tables);
}

/* ---- Registers ---- */

/* A processor that has 64-bit mode and says nothing else of itself: without that, kernels which
 * hold the registers against what the processor can do refuse the mode. */
static int set_processor(struct guest *guest)
{
    struct {
        uint32_t count, padding; /* as in struct kvm_cpuid2 */
        struct kvm_cpuid_entry2 entries[2];
    } processor = {.count = 2,
                   .entries = {{.function = 0x80000000, .eax = 0x80000001},
                               {.function = 0x80000001, .edx = 1u << 29}}};

    return ioctl(guest->vcpu, KVM_SET_CPUID2, &processor);
}

static int set_registers(struct guest *guest)
{
    struct kvm_regs registers = {
        .rip = code_address(guest_code),
        .rdi = OWN + RING_AT,
        .rflags = 0x3002, /* I/O privilege level 3 */
    };
    struct kvm_segment data = {.limit = ~0u, .selector = 0x2b, .type = 3, .present = 1, .dpl = 3,
                               .db = 1, .s = 1, .g = 1};
    struct kvm_segment code = {.limit = ~0u, .selector = 0x33, .type = 11, .present = 1, .dpl = 3,
                               .l = 1, .s = 1, .g = 1};
    struct kvm_sregs system;

    if (ioctl(guest->vcpu, KVM_GET_SREGS, &system) < 0)
        return -1;
    system.tr = (struct kvm_segment){.base = OWN + TASK_AT, .limit = TASK_SIZE + PORTS / 8,
                                     .selector = 0x40, .type = 11, .present = 1};
    system.cs = code;
    system.ds = system.es = system.fs = system.gs = system.ss = data;
    system.cr0 = 0x80010011; /* paging, write protection, protected mode */
    system.cr3 = OWN + TABLES_AT;
    system.cr4 = 0x20;   /* physical address extension */
    system.efer = 0x500; /* long mode */
    if (ioctl(guest->vcpu, KVM_SET_SREGS, &system) < 0)
        return -1;
    return ioctl(guest->vcpu, KVM_SET_REGS, &registers);
}

/* ---- Making and closing ---- */

static int set_slot(struct guest *guest, unsigned slot, uint64_t physical, size_t size, void *at)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .guest_phys_addr = physical,
        .memory_size = size,
        .userspace_addr = (uintptr_t)at,
    };

    return ioctl(guest->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int guest_widen(struct guest *guest, size_t window)
{
    if (window <= guest->window)
        return 0;
    if (guest->window && set_slot(guest, SLOT_ARENA, ARENA, 0, mirror.arena) < 0)
        return -1;
    guest->window = 0;
    if (set_slot(guest, SLOT_ARENA, ARENA, window, mirror.arena) < 0)
        return -1;
    guest->window = window;
    return 0;
}

/* Children get nothing of it: they could not run it. */
static void *map_alone(size_t size, int flags, int fd)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTFORK);
    return at;
}

static int open_guest(struct guest *guest)
{
    int size;

    guest->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (guest->kvm < 0)
        return guest->kvm = 0, -1;
    guest->vm = ioctl(guest->kvm, KVM_CREATE_VM, 0);
    if (guest->vm < 0)
        return guest->vm = 0, -1;
    guest->vcpu = ioctl(guest->vm, KVM_CREATE_VCPU, 0);
    if (guest->vcpu < 0)
        return guest->vcpu = 0, -1;
    size = ioctl(guest->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0)
        return -1;
    guest->run_size = (size_t)size;
    guest->run = map_alone(guest->run_size, MAP_SHARED, guest->vcpu);
    guest->memory = map_alone(OWN_SIZE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    return guest->run && guest->memory ? 0 : -1;
}

static int make_guest(struct guest *guest, size_t window)
{
    memset(guest, 0, sizeof(*guest));
    if (open_guest(guest) < 0)
        return -1;
    fill_memory(guest);
    if (set_slot(guest, SLOT_OWN, OWN, OWN_SIZE, guest->memory) < 0 ||
        set_slot(guest, SLOT_SHARED, SHARED, SHARED_SIZE, mirror.shared) < 0 ||
        guest_widen(guest, window) < 0)
        return -1;
    return set_processor(guest) < 0 ? -1 : set_registers(guest);
}

int guest_create(struct guest *guest, size_t window)
{
    int error;

    if (make_guest(guest, window) == 0)
        return 0;
    error = errno;
    if (guest->run)
        munmap(guest->run, guest->run_size);
    if (guest->memory)
        munmap(guest->memory, OWN_SIZE);
    guest_close(guest);
    errno = error;
    return -1;
}

void guest_close(struct guest *guest)
{
    int files[] = {guest->vcpu, guest->vm, guest->kvm};

    for (unsigned i = 0; i < 3; i++)
        if (files[i])
            close(files[i]);
    memset(guest, 0, sizeof(*guest));
}

/* ---- Running ---- */

/* Send the guest from the access that has faulted to where it says so. */
static enum guest_stop leave_command(struct guest *guest)
{
    struct kvm_regs registers;

    if (ioctl(guest->vcpu, KVM_GET_REGS, &registers) < 0)
        return STOP_BROKEN;
    for (size_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++)
        if (registers.rip == code_address(accesses[i])) {
            registers.rip = code_address(guest_on_fault);
            return ioctl(guest->vcpu, KVM_SET_REGS, &registers) < 0 ? STOP_BROKEN : STOP_FAULT;
        }
    errno = EFAULT;
    return STOP_BROKEN;
}

enum guest_stop guest_run(struct guest *guest)
{
    if (ioctl(guest->vcpu, KVM_RUN, 0) == 0) {
        errno = 0;
        return guest->run->exit_reason == KVM_EXIT_IO ? STOP_IDLE : STOP_BROKEN;
    }
    if (errno == EFAULT)
        return leave_command(guest);
    return errno == EINTR || errno == EAGAIN ? STOP_SIGNAL : STOP_BROKEN;
}

uint64_t guest_shared(size_t at)
{
    return SHARED + at;
}

const char *guest_complaint(const struct guest *guest)
{
    static char text[96];

    if (errno)
        snprintf(text, sizeof(text), "running a guest: %s", strerror(errno));
    else
        snprintf(text, sizeof(text), "running a guest: stopped for reason %u of KVM_RUN",
                 guest->run->exit_reason);
    return text;
}

#else /* no guest code for this processor */

int guest_create(struct guest *guest, size_t window)
{
    (void)guest;
    (void)window;
    errno = ENOEXEC;
    return -1;
}

int guest_widen(struct guest *guest, size_t window)
{
    return guest_create(guest, window);
}

enum guest_stop guest_run(struct guest *guest)
{
    (void)guest;
    return STOP_BROKEN;
}

void guest_close(struct guest *guest)
{
    (void)guest;
}

uint64_t guest_shared(size_t at)
{
    return at;
}

const char *guest_complaint(const struct guest *guest)
{
    (void)guest;
    return "there is no guest for this processor";
}

#endif
