/*
 * The RDMA device of linux:hmm/rxe: soft RoCE over an interface that leads nowhere.  What it
 * sends to its own address it takes back before any network sees it (rxe_loopback() in
 * drivers/infiniband/sw/rxe/rxe_net.c).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <rdma/rdma_netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rxe.h"

#define INTERFACE "dummy0"
#define DEVICE "rxe0"
#define TABLE "/sys/class/infiniband/" DEVICE "/ports/1/gids/%u"
#define PACKET 9000 /* bytes: there is room for the largest that RDMA knows, 4096 and a header */

enum { MOST_ADDRESSES = 16 };

/* 192.0.2.1 is for documents: nobody has it. */
const uint8_t rxe_address[16] = {[10] = 0xff, 0xff, 192, 0, 2, 1};
static const char address_text[] = "0000:0000:0000:0000:0000:ffff:c000:0201";
uint8_t rxe_address_index;

/* ---- The interface ---- */

static int change_interface(int file, unsigned long what, struct ifreq *change)
{
    strcpy(change->ifr_name, INTERFACE);
    return ioctl(file, what, change);
}

/* The address first: the RDMA device begins with those that its interface has. */
static int bring_up(void)
{
    int file = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), done;
    struct ifreq size = {.ifr_mtu = PACKET}, address = {0}, flags = {.ifr_flags = IFF_UP};
    struct sockaddr_in *own = (struct sockaddr_in *)&address.ifr_addr;

    if (file < 0)
        return -1;
    own->sin_family = AF_INET;
    memcpy(&own->sin_addr, rxe_address + 12, sizeof(own->sin_addr));
    done = change_interface(file, SIOCSIFMTU, &size) < 0 ||
                   change_interface(file, SIOCSIFADDR, &address) < 0 ||
                   change_interface(file, SIOCSIFFLAGS, &flags) < 0
               ? -1
               : 0;
    close(file);
    return done;
}

/* ---- The device ---- */

struct request {
    struct nlmsghdr header;
    uint8_t attributes[128];
};

static void add_text(struct request *request, uint16_t kind, const char *text)
{
    struct nlattr *attribute = (struct nlattr *)((uint8_t *)request + request->header.nlmsg_len);

    attribute->nla_type = kind;
    attribute->nla_len = (uint16_t)(NLA_HDRLEN + strlen(text) + 1);
    strcpy((char *)attribute + NLA_HDRLEN, text);
    request->header.nlmsg_len += NLA_ALIGN(attribute->nla_len);
}

/* Send it and take the answer; 0, or -1 with errno. */
static int ask(int file, const struct request *request)
{
    struct {
        struct nlmsghdr header;
        struct nlmsgerr answer;
        uint8_t rest[256];
    } reply;

    if (send(file, request, request->header.nlmsg_len, 0) < 0)
        return -1;
    if (recv(file, &reply, sizeof(reply), 0) < (ssize_t)NLMSG_LENGTH(sizeof(reply.answer)))
        return -1;
    errno = -reply.answer.error;
    return reply.answer.error ? -1 : 0;
}

static int add_device(void)
{
    int file = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_RDMA), done;
    struct request request = {
        .header = {.nlmsg_len = NLMSG_HDRLEN,
                   .nlmsg_type = RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK),
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
    };

    if (file < 0)
        return -1;
    add_text(&request, RDMA_NLDEV_ATTR_DEV_NAME, DEVICE);
    add_text(&request, RDMA_NLDEV_ATTR_LINK_TYPE, "rxe");
    add_text(&request, RDMA_NLDEV_ATTR_NDEV_NAME, INTERFACE);
    done = ask(file, &request);
    close(file);
    return done;
}

/* ---- Its address ---- */

static int is_own_address(unsigned index)
{
    char path[96], line[64] = "";
    FILE *file;

    snprintf(path, sizeof(path), TABLE, index);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (!fgets(line, sizeof(line), file))
        line[0] = 0;
    fclose(file);
    return strncmp(line, address_text, sizeof(address_text) - 1) == 0;
}

static int find_address(void)
{
    for (unsigned index = 0; index < MOST_ADDRESSES; index++)
        if (is_own_address(index))
            return rxe_address_index = (uint8_t)index, 0;
    errno = EADDRNOTAVAIL;
    return -1;
}

const char *rxe_set_up(void)
{
    if (access(RXE_NODE, R_OK | W_OK) < 0) {
        if (bring_up() < 0)
            return INTERFACE;
        if (add_device() < 0)
            return DEVICE;
    }
    if (access(RXE_NODE, R_OK | W_OK) < 0)
        return RXE_NODE;
    return find_address() < 0 ? "the address of " DEVICE : NULL;
}
