/* What the computer could do: the rows of bench/floor.py, by SQLite's C interface, in one thread. Built and started by
   bench/limit.py, which also makes the database. Reads Binance's trades as bench/load.py sends them, and nothing else.

       limit PORT DATABASE EVERY ROWS WAL_PAGES
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, ROWS_OF_ORDER = 3 };

static sqlite3 *db;

static void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : "failed");
    exit(1);
}

static void run(const char *sql) {
    if (sqlite3_exec(db, sql, 0, 0, 0) != SQLITE_OK) die(sql);
}

static sqlite3_stmt *prepared(const char *sql) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, 0) != SQLITE_OK) die(sql);
    return statement;
}

static void step(sqlite3_stmt *statement) {
    int code = sqlite3_step(statement);
    if (code != SQLITE_DONE && code != SQLITE_ROW) die("step");
    sqlite3_reset(statement);
}

static void text(sqlite3_stmt *statement, int column, const char *value) {
    sqlite3_bind_text(statement, column, value, -1, SQLITE_STATIC);
}

/* `units` of 1e-12 as the shortest plain decimal. */
static const char *decimal(__int128 units, char *into) {
    int negative = units < 0;
    unsigned __int128 rest = negative ? -(unsigned __int128)units : (unsigned __int128)units;
    const uint64_t one = 1000000000000u;
    uint64_t whole = (uint64_t)(rest / one), part = (uint64_t)(rest % one);
    int length = sprintf(into, "%s%llu.%012llu", negative ? "-" : "", (unsigned long long)whole, (unsigned long long)part);
    while (into[length - 1] == '0') length--;
    if (into[length - 1] == '.') length--;
    into[length] = 0;
    return into;
}

static sqlite3_stmt *begin, *commit, *tick, *signal_row, *order_row, *fill, *position, *watermark;
static __int128 qty_sum, cash_sum, fees_sum;
static char at[32]; /* The price of the last order. */
static int64_t first_id, first_ts, last_id, last_ts; /* Of the trades until now. */

static void end_transaction(void) {
    char sums[3][48];
    sqlite3_bind_int64(watermark, 1, first_id);
    sqlite3_bind_int64(watermark, 2, last_id);
    sqlite3_bind_int64(watermark, 3, first_ts);
    sqlite3_bind_int64(watermark, 4, last_ts);
    step(watermark);
    if (qty_sum) {
        text(position, 1, decimal(qty_sum, sums[0]));
        text(position, 2, decimal(cash_sum, sums[1]));
        text(position, 3, decimal(fees_sum, sums[2]));
        text(position, 4, at);
        step(position);
    }
    step(commit);
}

static void write_order(int64_t id, int64_t trade_id, const char *price, size_t price_length, int64_t ts) {
    char event[64], order[80], fees[48], cash[48];
    int64_t units = 0; /* The price in 1e-8, as Binance prints it. */
    size_t kept = price_length;
    for (const char *c = price; c < price + price_length; c++)
        if (*c != '.') units = units * 10 + (*c - '0');
    while (price[kept - 1] == '0') kept--;
    if (price[kept - 1] == '.') kept--;
    memcpy(at, price, kept);
    at[kept] = 0;
    sprintf(event, "periodic:%lld@bench", (long long)trade_id);
    sprintf(order, "shadow-%s", event);
    /* 0.1 of it, and a thousandth of that, in 1e-12: exact. */
    __int128 notional = (__int128)units * 1000, fee = units;
    sqlite3_bind_int64(signal_row, 1, id);
    sqlite3_bind_int64(signal_row, 2, ts);
    text(signal_row, 3, event);
    sqlite3_bind_int64(signal_row, 4, id);
    text(signal_row, 5, at);
    step(signal_row);
    sqlite3_bind_int64(order_row, 1, 4 * id);
    sqlite3_bind_int64(order_row, 2, ts);
    text(order_row, 3, order);
    text(order_row, 4, at);
    sqlite3_bind_int64(order_row, 5, ts);
    step(order_row);
    text(fill, 1, order);
    sqlite3_bind_int64(fill, 2, ts);
    text(fill, 3, at);
    text(fill, 4, decimal(fee, fees));
    text(fill, 5, decimal(notional - fee, cash));
    step(fill);
    qty_sum -= 100000000000;
    cash_sum += notional - fee;
    fees_sum += fee;
}

static const char *after(const char *from, const char *end, const char *key) {
    const char *found = memmem(from, (size_t)(end - from), key, strlen(key));
    if (!found) die("a message without what a trade has");
    return found + strlen(key);
}

int main(int count, char **words) {
    if (count != 6) die("usage: limit PORT DATABASE EVERY ROWS WAL_PAGES");
    const char hello[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    int64_t every = atoll(words[3]), most = atoll(words[4]), id = 0, rows = 0;
    if (sqlite3_open(words[2], &db) != SQLITE_OK) die(words[2]);
    char pragma[100];
    sprintf(pragma, "PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = %d", atoi(words[5]));
    run(pragma);
    begin = prepared("BEGIN");
    commit = prepared("COMMIT");
    tick = prepared("INSERT INTO ticks(id, symbol, price, volume, ts, source, trade_id)"
                    " VALUES (?, 'SOL/USDC', ?, ?, ?, 1, ?)");
    signal_row = prepared("INSERT INTO signals(id, symbol, value, ts, event_id, tick_id, side, reason, size, price, replayed)"
                          " VALUES (?, 'SOL/USDC', 0.75, ?, ?, ?, 'SELL', 'PERIODIC_TRIGGER', '0.1', ?, 0)");
    order_row = prepared("INSERT INTO orders(id, symbol, side, status, ts, order_id, is_shadow, qty_exact, price_exact,"
                         " filled_qty, seq, reason, updated_ts, replayed, detail) VALUES (?, 'SOL/USDC', 'SELL', 'FILLED', ?,"
                         " ?, 1, '0.1', ?, '0.1', 0, 'SHADOW_RECORDED', ?, 0, 'fee_rate=0.001 slippage_bps=0.0')");
    fill = prepared("INSERT INTO trades(order_id, seq, symbol, side, ts, is_shadow, qty_exact, price_exact, fees_exact,"
                    " cash_delta, replayed) VALUES (?, 0, 'SOL/USDC', 'SELL', ?, 1, '0.1', ?, ?, ?, 0)");
    position = prepared("INSERT OR REPLACE INTO positions(mode, symbol, qty, cash, fees, price)"
                        " VALUES ('SHADOW', 'SOL/USDC', ?, ?, ?, ?)");
    watermark = prepared("INSERT INTO sources(id, name, stream, number, first_trade_id, last_trade_id, first_ts, last_ts,"
                         " missing) VALUES (1, 'bench', 'bench', 1, ?, ?, ?, ?, '[]') ON CONFLICT(id) DO UPDATE SET"
                         " last_trade_id = excluded.last_trade_id, last_ts = excluded.last_ts");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int venue = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(venue, (struct sockaddr *)&address, sizeof address)) die("connect");
    if (write(venue, hello, sizeof hello - 1) < 0) die("write");
    static char buffer[BUFFER];
    size_t held = 0, start = 0;
    int shaken = 0, open = 0;
    for (;;) {
        ssize_t got = recv(venue, buffer + held, BUFFER - held, open ? MSG_DONTWAIT : 0);
        if (got == 0) break;
        if (got < 0) {
            /* Nothing waits: what there is goes to disk. */
            if (!open) die("recv");
            end_transaction();
            open = 0;
            rows = 0;
            continue;
        }
        held += (size_t)got;
        if (!shaken) {
            char *end = memmem(buffer, held, "\r\n\r\n", 4);
            if (!end) continue;
            start = (size_t)(end + 4 - buffer);
            shaken = 1;
        }
        while (held - start >= 4) {
            const unsigned char *head = (unsigned char *)buffer + start;
            if (head[0] != 0x81 || head[1] != 126) die("a frame of another kind");
            size_t size = (size_t)head[2] << 8 | head[3];
            if (held - start - 4 < size) break;
            const char *message = buffer + start + 4, *end = message + size;
            start += 4 + size;
            const char *at = after(message, end, "\"t\":");
            int64_t trade_id = strtoll(at, 0, 10);
            const char *price = after(at, end, "\"p\":\"");
            const char *volume = after(price, end, "\"q\":\"");
            int64_t ts = strtoll(after(volume, end, "\"T\":"), 0, 10);
            if (!open) {
                step(begin);
                open = 1;
            }
            sqlite3_bind_int64(tick, 1, ++id);
            sqlite3_bind_double(tick, 2, strtod(price, 0));
            sqlite3_bind_double(tick, 3, strtod(volume, 0));
            sqlite3_bind_int64(tick, 4, ts);
            sqlite3_bind_int64(tick, 5, trade_id);
            step(tick);
            rows++;
            if (id == 1) {
                first_id = trade_id;
                first_ts = ts;
            }
            last_id = trade_id;
            last_ts = ts;
            if (every && id % every == 0) {
                write_order(id, trade_id, price, (size_t)(strchr(price, '"') - price), ts);
                rows += ROWS_OF_ORDER;
            }
            if (most && rows >= most) {
                end_transaction();
                open = 0;
                rows = 0;
            }
        }
        memmove(buffer, buffer + start, held - start);
        held -= start;
        start = 0;
    }
    if (open) end_transaction();
    return 0;
}
