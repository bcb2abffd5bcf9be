/* A DynamoDB endpoint that costs next to nothing: one table, one epoll thread, answers made beforehand.
 *
 *   stub TABLE HASH RANGE|- ITEMS|- DELAY_US HIDDEN(0|1)     prints its port, listens on loopback, ends with its parent
 *
 * ITEMS holds one item a line: hash TAB range TAB size TAB the item as DynamoDB JSON, without escapes in the keys. Scan gives them in that
 * order, in pages of at most 1 MB by `size`, cut into equal segments; GetItem and BatchGetItem find them by key. Writes are counted and
 * thrown away. HIDDEN: the table is empty until something is written to it, and holds ITEMS from then on, so that whoever copies them can
 * read them back. GET / tells what was counted since the last GET /forget, which also hides the items again.
 *
 * Checks no signatures and keeps nothing: it is there to be waited for as little as possible. Requests may be pipelined.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES (1 << 20)
#define MOST_BODY (16 << 20)
#define CHUNK (256 << 10)

static void die(const char *what) { perror(what); exit(1); }
static void *grown(void *old, size_t size) { void *new = realloc(old, size); if (!new) die("memory"); return new; }

/* The table ----------------------------------------------------------------------------------------------------------- */

typedef struct { const char *hash, *range; uint32_t hash_len, range_len, size; size_t at, len; } Item;

static const char *table, *hash_name, *range_name;
static Item *items;
static size_t item_count, slots;
static uint32_t *index_of;      /* open addressing, by key; 0 is free */
static char *joined;            /* all items, each with a comma behind it: a page is one stretch of it */
static int hidden, delay_us;

static uint64_t mixed(uint64_t sum, const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) sum = (sum ^ (unsigned char)text[i]) * 1099511628211ULL;
    return (sum ^ 0xff) * 1099511628211ULL;
}

static size_t slot_of(const char *hash, size_t hash_len, const char *range, size_t range_len) {
    size_t at = mixed(mixed(14695981039346656037ULL, hash, hash_len), range, range_len) & (slots - 1);
    for (; index_of[at]; at = (at + 1) & (slots - 1)) {
        Item *item = &items[index_of[at] - 1];
        if (item->hash_len == hash_len && item->range_len == range_len && !memcmp(item->hash, hash, hash_len) && !memcmp(item->range, range, range_len)) break;
    }
    return at;
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    size_t total = ftell(file);
    rewind(file);
    char *text = grown(NULL, total + 1), *end = text + total;
    if (fread(text, 1, total, file) != total) die(path);
    *end = 0;
    fclose(file);
    joined = grown(NULL, total + 1);
    size_t room = 0, used = 0;
    for (char *line = text; line < end;) {
        char *stop = memchr(line, '\n', end - line), *range = memchr(line, '\t', stop - line) + 1, *size = memchr(range, '\t', stop - range) + 1,
             *json = memchr(size, '\t', stop - size) + 1;
        if (item_count == room) items = grown(items, (room = room ? 2 * room : 1024) * sizeof *items);
        size_t len = stop - json;
        items[item_count++] = (Item){line, range, range - 1 - line, size - 1 - range, atoi(size), used, len};
        memcpy(joined + used, json, len);
        joined[used + len] = ',';
        used += len + 1;
        line = stop + 1;
    }
    for (slots = 16; slots < 2 * item_count;) slots *= 2;
    index_of = calloc(slots, sizeof *index_of);
    for (size_t i = 0; i < item_count; i++) index_of[slot_of(items[i].hash, items[i].hash_len, items[i].range, items[i].range_len)] = i + 1;
}

/* Connections --------------------------------------------------------------------------------------------------------- */

typedef struct {
    int fd, writing, references, closed;
    char *in, *out;
    size_t in_len, in_room, out_len, out_sent, out_room;
} Connection;

typedef struct { Connection *to; char *data; size_t len; int64_t due; } Late;

static int events, timer;
static Late *late;              /* a ring: all are delayed alike, so they fall due in order */
static size_t late_first, late_count, late_room;
static struct { uint64_t requests, bytes, items, listed, batch_write, put, scan, batch_get, get, query, describe, other; } told;

static int64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }

static void reserve(Connection *c, size_t more) {
    if (c->out_len + more > c->out_room) c->out = grown(c->out, c->out_room = 2 * (c->out_len + more));
}

static void add(Connection *c, const char *data, size_t len) { reserve(c, len); memcpy(c->out + c->out_len, data, len); c->out_len += len; }

static void release(Connection *c) {
    if (--c->references) return;
    free(c->in); free(c->out); free(c);
}

static void watch(Connection *c, int writing) {
    if (c->writing == writing) return;
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(events, EPOLL_CTL_MOD, c->fd, &e);
    c->writing = writing;
}

static void hang_up(Connection *c) {
    if (c->closed) return;
    c->closed = 1;
    close(c->fd);
    release(c);
}

static void send_out(Connection *c) {
    while (c->out_sent < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) { watch(c, 1); return; }
        if (sent < 0) { hang_up(c); return; }
        c->out_sent += sent;
    }
    c->out_sent = c->out_len = 0;
    watch(c, 0);
}

/* Answers ------------------------------------------------------------------------------------------------------------- */

/* The length is filled in behind the head when the body is there: ten digits, so that nothing moves. */
static size_t begin_answer(Connection *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length:           \r\n\r\n";
    add(c, head, sizeof head - 1);
    return c->out_len;
}

static void end_answer(Connection *c, size_t body) {
    char digits[16];
    snprintf(digits, sizeof digits, "%10zu", c->out_len - body);
    memcpy(c->out + body - 14, digits, 10);
}

static void say(Connection *c, const char *format, ...) {
    reserve(c, 4096);
    va_list values;
    va_start(values, format);
    c->out_len += vsnprintf(c->out + c->out_len, 4096, format, values);
    va_end(values);
}

static const char *after(const char *at, const char *end, const char *name) {
    const char *found = at < end ? memmem(at, end - at, name, strlen(name)) : NULL;
    return found ? found + strlen(name) : NULL;
}

static long number_of(const char *body, const char *end, const char *name, long otherwise) {
    const char *at = after(body, end, name);
    if (!at) return otherwise;
    while (at < end && (*at == ':' || *at == ' ')) at++;
    return atol(at);
}

/* The text of "name": {"S": "text"} behind `at`; NULL if there is none. */
static const char *text_of(const char *at, const char *end, const char *name, size_t *len, const char **behind) {
    char quoted[300];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    if (!(at = after(at, end, quoted)) || !(at = after(at, end, "\"S\"")) || !(at = memchr(at, '"', end - at))) return NULL;
    const char *stop = memchr(at + 1, '"', end - at - 1);
    if (!stop) return NULL;
    *len = stop - at - 1;
    *behind = stop + 1;
    return at + 1;
}

/* The number of the item whose key comes next behind *at, which moves on; item_count if it is none of ours, -1 if no key comes. */
static long next_key(const char **at, const char *end) {
    size_t hash_len, range_len = 0;
    const char *behind_hash, *behind_range = *at, *range = "", *hash = text_of(*at, end, hash_name, &hash_len, &behind_hash);
    if (!hash || (range_name && !(range = text_of(*at, end, range_name, &range_len, &behind_range)))) return -1;
    *at = behind_hash > behind_range ? behind_hash : behind_range;
    if (hidden || !item_count) return item_count;
    uint32_t found = index_of[slot_of(hash, hash_len, range, range_len)];
    return found ? (long)found - 1 : (long)item_count;
}

static void say_key(Connection *c, const Item *item) {
    say(c, "{\"%s\":{\"S\":\"%.*s\"}", hash_name, (int)item->hash_len, item->hash);
    if (range_name) say(c, ",\"%s\":{\"S\":\"%.*s\"}", range_name, (int)item->range_len, item->range);
    say(c, "}");
}

static void scan(Connection *c, const char *body, const char *end) {
    size_t count = hidden ? 0 : item_count, of = number_of(body, end, "\"TotalSegments\"", 1), segment = number_of(body, end, "\"Segment\"", 0);
    size_t first = count * segment / of, last = count * (segment + 1) / of;
    long limit = number_of(body, end, "\"Limit\"", 0);
    const char *start = after(body, end, "\"ExclusiveStartKey\"");
    if (start) {
        long before = next_key(&start, end);
        first = before < 0 ? first : (size_t)before + 1;
    }
    size_t behind = first, size = 0;
    while (behind < last && size < PAGE_BYTES && (!limit || behind - first < (size_t)limit)) size += items[behind++].size;
    told.listed += behind - first;
    add(c, "{\"Items\":[", 10);
    if (behind > first) add(c, joined + items[first].at, items[behind - 1].at + items[behind - 1].len - items[first].at);
    say(c, "],\"Count\":%zu,\"ScannedCount\":%zu", behind - first, behind - first);
    if (behind < last) { say(c, ",\"LastEvaluatedKey\":"); say_key(c, &items[behind - 1]); }
    if (after(body, end, "\"ReturnConsumedCapacity\"")) say(c, ",\"ConsumedCapacity\":{\"TableName\":\"%s\",\"CapacityUnits\":%.1f}", table, (size + 8191) / 8192 * 1.0);
    say(c, "}");
}

static void get(Connection *c, const char *body, const char *end, int many) {
    const char *at = after(body, end, many ? "\"Keys\"" : "\"Key\""), *comma = "";
    if (many) say(c, "{\"UnprocessedKeys\":{},\"Responses\":{\"%s\":[", table); else say(c, "{");
    for (long number; at && (number = next_key(&at, end)) >= 0;) {
        if ((size_t)number >= item_count) { if (many) continue; break; }
        if (many) say(c, "%s", comma); else say(c, "\"Item\":");
        add(c, joined + items[number].at, items[number].len);
        told.listed++;
        comma = ",";
        if (!many) break;
    }
    say(c, many ? "]}}" : "}");
}

/* How many PutRequest and DeleteRequest there are, in one pass. */
static size_t count_of_writes(const char *body, const char *end) {
    size_t count = 0;
    for (const char *at = body; (at = after(at, end, "Request\""));) {
        const char *name = at - 8;
        count += (name - body > 3 && !memcmp(name - 4, "\"Put", 4)) || (name - body > 6 && !memcmp(name - 7, "\"Delete", 7));
    }
    return count;
}

/* Whether the answer shall tell what it took; that is said at one end of a request. */
static int wants_capacity(const char *body, const char *end) {
    const char *name = "\"ReturnConsumedCapacity\"";
    return end - body < 512 ? after(body, end, name) != NULL : after(end - 256, end, name) || after(body, body + 256, name);
}

static void describe(Connection *c) {
    size_t count = hidden ? 0 : item_count;
    say(c, "{\"Table\":{\"TableName\":\"%s\",\"TableStatus\":\"ACTIVE\",\"TableArn\":\"arn:aws:dynamodb:eu-west-1:000000000000:table/%s\",", table, table);
    say(c, "\"BillingModeSummary\":{\"BillingMode\":\"PAY_PER_REQUEST\"},\"ItemCount\":%zu,\"TableSizeBytes\":%zu,", count, count ? items[count - 1].at : 0);
    say(c, "\"KeySchema\":[{\"AttributeName\":\"%s\",\"KeyType\":\"HASH\"}", hash_name);
    if (range_name) say(c, ",{\"AttributeName\":\"%s\",\"KeyType\":\"RANGE\"}", range_name);
    say(c, "],\"AttributeDefinitions\":[{\"AttributeName\":\"%s\",\"AttributeType\":\"S\"}", hash_name);
    if (range_name) say(c, ",{\"AttributeName\":\"%s\",\"AttributeType\":\"S\"}", range_name);
    say(c, "]}}");
}

static void wrote(Connection *c, const char *body, const char *end, size_t count, const char *answer) {
    told.items += count;
    hidden = hidden && !count;
    say(c, "{%s", answer);
    if (wants_capacity(body, end)) {
        size_t units = (end - body) / 1024;
        int many = *answer != 0;
        say(c, "%s\"ConsumedCapacity\":%s{\"TableName\":\"%s\",\"CapacityUnits\":%.1f}%s", many ? "," : "", many ? "[" : "", table,
            (double)(units > count ? units : count), many ? "]" : "");
    }
    say(c, "}");
}

static void answer(Connection *c, const char *operation, const char *body, const char *end) {
#define IS(name) !strncmp(operation, name "\r", sizeof name)
    size_t at = begin_answer(c);
    told.requests++;
    told.bytes += end - body;
    if (IS("BatchWriteItem")) {
        told.batch_write++;
        wrote(c, body, end, count_of_writes(body, end), "\"UnprocessedItems\":{}");
    } else if (IS("PutItem")) { told.put++; wrote(c, body, end, 1, ""); }
    else if (IS("Scan")) { told.scan++; scan(c, body, end); }
    else if (IS("BatchGetItem")) { told.batch_get++; get(c, body, end, 1); }
    else if (IS("GetItem")) { told.get++; get(c, body, end, 0); }
    else if (IS("Query")) { told.query++; say(c, "{\"Items\":[],\"Count\":0,\"ScannedCount\":0}"); }
    else if (IS("DescribeTable")) { told.describe++; describe(c); }
    else if (IS("DescribeTimeToLive")) { told.describe++; say(c, "{\"TimeToLiveDescription\":{\"TimeToLiveStatus\":\"DISABLED\"}}"); }
    else { told.other++; say(c, "{}"); }
    end_answer(c, at);
}

static void tell(Connection *c, int forget) {
    size_t at = begin_answer(c);
    say(c, "{\"requests\":%lu,\"bytes\":%lu,\"items\":%lu,\"listed\":%lu,\"BatchWriteItem\":%lu,\"PutItem\":%lu,\"Scan\":%lu,\"BatchGetItem\":%lu,"
           "\"GetItem\":%lu,\"Query\":%lu,\"describing\":%lu,\"other\":%lu}",
        told.requests, told.bytes, told.items, told.listed, told.batch_write, told.put, told.scan, told.batch_get, told.get, told.query,
        told.describe, told.other);
    end_answer(c, at);
    if (forget) memset(&told, 0, sizeof told);
}

/* Put an answer by until it is due. */
static void hold_back(Connection *c, size_t from) {
    if (late_count == late_room) {
        Late *ring = grown(NULL, 2 * (late_room + 8) * sizeof *ring);
        for (size_t i = 0; i < late_count; i++) ring[i] = late[(late_first + i) % late_room];
        free(late);
        late = ring; late_first = 0; late_room = 2 * (late_room + 8);
    }
    size_t len = c->out_len - from;
    char *data = grown(NULL, len);
    memcpy(data, c->out + from, len);
    c->out_len = from;
    c->references++;
    late[(late_first + late_count++) % late_room] = (Late){c, data, len, now() + delay_us * 1000LL};
}

static void send_due(void) {
    for (int64_t time = now(); late_count && late[late_first].due <= time; late_count--, late_first = (late_first + 1) % late_room) {
        Late each = late[late_first];
        if (!each.to->closed) { add(each.to, each.data, each.len); send_out(each.to); }
        free(each.data);
        release(each.to);
    }
    struct itimerspec when = {0};
    if (late_count) { when.it_value.tv_sec = late[late_first].due / 1000000000; when.it_value.tv_nsec = late[late_first].due % 1000000000; }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Answer every whole request that is in; false if what comes is no HTTP of ours. */
static int answer_all(Connection *c, int is_hidden) {
    size_t done = 0;
    while (done < c->in_len) {
        char *request = c->in + done, *end = c->in + c->in_len, *body = memmem(request, end - request, "\r\n\r\n", 4);
        if (!body) break;
        const char *operation = "\r";
        size_t len = 0;
        *body = 0;
        for (char *line = strstr(request, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
            if (!strncasecmp(line + 2, "content-length:", 15)) len = strtoul(line + 17, NULL, 10);
            if (!strncasecmp(line + 2, "x-amz-target:", 13)) {
                char *dot = strchr(line + 15, '.');
                operation = dot ? dot + 1 : "\r";
            }
        }
        if (len > MOST_BODY) return 0;
        *body = '\r';
        body += 4;
        if ((size_t)(end - body) < len) {
            size_t need = body - request + len + CHUNK;
            if (c->in_room < done + need) c->in = grown(c->in, c->in_room = done + need);
            break;
        }
        size_t from = c->out_len;
        if (!strncmp(request, "GET /", 5)) {
            int forget = !strncmp(request, "GET /forget", 11);
            tell(c, forget);
            if (forget) hidden = is_hidden;
        } else {
            answer(c, operation, body, body + len);
            if (delay_us) hold_back(c, from);
        }
        done = body + len - c->in;
    }
    c->in_len -= done;
    memmove(c->in, c->in + done, c->in_len);
    return 1;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (argc != 7) { fputs("stub TABLE HASH RANGE|- ITEMS|- DELAY_US HIDDEN\n", stderr); return 2; }
    table = argv[1]; hash_name = argv[2]; range_name = strcmp(argv[3], "-") ? argv[3] : NULL;
    if (strcmp(argv[4], "-")) load(argv[4]);
    delay_us = atoi(argv[5]);
    int is_hidden = hidden = atoi(argv[6]);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    if (bind(listener, (struct sockaddr *)&here, size) || listen(listener, 512) || getsockname(listener, (struct sockaddr *)&here, &size)) die("listening");
    events = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &listener});
    epoll_ctl(events, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &timer});
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event ready[64];
        int count = epoll_wait(events, ready, 64, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr == &listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    Connection *c = calloc(1, sizeof *c);
                    c->fd = fd; c->references = 1;
                    epoll_ctl(events, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
                }
                continue;
            }
            if (ready[i].data.ptr == &timer) { uint64_t times; if (read(timer, &times, sizeof times) < 0) {} continue; }
            Connection *c = ready[i].data.ptr;
            c->references++;
            if (ready[i].events & (EPOLLERR | EPOLLHUP)) hang_up(c);
            if (!c->closed && ready[i].events & EPOLLIN) {
                if (c->in_room - c->in_len < CHUNK) c->in = grown(c->in, c->in_room = 2 * c->in_room + CHUNK);
                ssize_t got = recv(c->fd, c->in + c->in_len, c->in_room - c->in_len, 0);
                if (got <= 0) { if (!got || (errno != EAGAIN && errno != EINTR)) hang_up(c); }
                else { c->in_len += got; if (!answer_all(c, is_hidden)) hang_up(c); }
            }
            if (!c->closed && c->out_len) send_out(c);
            release(c);
        }
        if (delay_us) send_due();
    }
}
