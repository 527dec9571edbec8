/*
 * What iommufd takes and gives, include/uapi/linux/iommufd.h, and what its test adds,
 * drivers/iommu/iommufd/iommufd_test.h (Linux 6.12).  The second is not installed anywhere.
 */
#ifndef LW_IOMMUFD_DRIVER_H
#define LW_IOMMUFD_DRIVER_H

#include <stdint.h>
#include <sys/ioctl.h>

/* All begin with their own size. */
struct iommufd_alloc {
    uint32_t size;
    uint32_t flags;
    uint32_t space; /* out: an I/O address space */
};

struct iommufd_map {
    uint32_t size;
    uint32_t flags;
    uint32_t space;
    uint32_t reserved;
    uint64_t address;
    uint64_t length;
    uint64_t iova;
};

struct iommufd_unmap {
    uint32_t size;
    uint32_t space;
    uint64_t iova;
    uint64_t length;
};

/* A command of the test: what it is about is an address space, or the file of an access. */
struct iommufd_test {
    uint32_t size;
    uint32_t what;
    uint32_t about;
    uint32_t reserved;
    union {
        struct {
            uint32_t device, table, bound; /* out */
        } domain;
        struct {
            uint32_t file; /* out */
            uint32_t flags;
        } access;
        struct {
            uint64_t iova;
            uint64_t length;
            uint64_t data;
            uint32_t flags;
        } copy;
        uint64_t room[6];
    };
    uint32_t last;
};

#define IOMMUFD_COMMAND(number) _IO(';', number)

#define IOMMUFD_ALLOC IOMMUFD_COMMAND(0x81)
#define IOMMUFD_MAP IOMMUFD_COMMAND(0x85)
#define IOMMUFD_UNMAP IOMMUFD_COMMAND(0x86)
#define IOMMUFD_TEST IOMMUFD_COMMAND(0xa0)

#define IOMMUFD_MAP_HERE 1u /* at the iova that is given */
#define IOMMUFD_MAP_WRITE 2u
#define IOMMUFD_MAP_READ 4u

enum { IOMMUFD_TEST_DOMAIN = 2, IOMMUFD_TEST_ACCESS = 5, IOMMUFD_TEST_COPY = 8 };

#define IOMMUFD_COPY_WRITE 1u
#define IOMMUFD_COPY_PINNED 4u /* through the pages that are pinned, if there are several */

/* The addresses that the mock of an IOMMU translates. */
#define IOMMUFD_FIRST (1ull << 24)
#define IOMMUFD_END (1ull << 31)

#endif
