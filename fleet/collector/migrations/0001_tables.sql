-- What leaves the hosts, as it lies in the ledgers: one row of a ledger is one row here, whatever is sent how often.
-- ts: milliseconds since the Unix epoch, day: of it, in UTC; each day is a partition of its own, made when its first
-- row comes. What belongs to no day from 2009 to the day after the message came is in the partition `..._other`.

CREATE TABLE ticks (
    instance text NOT NULL,
    day date NOT NULL,
    id bigint NOT NULL,
    ts bigint NOT NULL,
    symbol text,
    price double precision,
    volume double precision,
    source text,
    trade_id bigint,
    event_id text,
    PRIMARY KEY (instance, id, day)
) PARTITION BY RANGE (day);
CREATE TABLE ticks_other PARTITION OF ticks DEFAULT;

CREATE TABLE signals (
    instance text NOT NULL,
    day date NOT NULL,
    id bigint NOT NULL,
    ts bigint NOT NULL,
    symbol text,
    event_id text,
    tick_id bigint,
    side text,
    reason text,
    confidence double precision,
    size numeric,
    price numeric,
    veto text,
    veto_detail text,
    PRIMARY KEY (instance, id, day)
) PARTITION BY RANGE (day);
CREATE TABLE signals_other PARTITION OF signals DEFAULT;

CREATE TABLE orders (
    instance text NOT NULL,
    day date NOT NULL,
    id bigint NOT NULL,
    ts bigint NOT NULL,
    order_id text,
    signal_id text,
    mode text,
    symbol text,
    side text,
    qty numeric,
    price numeric,
    is_shadow bigint,
    PRIMARY KEY (instance, id, day)
) PARTITION BY RANGE (day);
CREATE TABLE orders_other PARTITION OF orders DEFAULT;

CREATE TABLE order_events (
    instance text NOT NULL,
    day date NOT NULL,
    order_id text NOT NULL,
    seq bigint NOT NULL,
    ts bigint NOT NULL,
    status text,
    reason text,
    filled_qty numeric,
    detail text,
    PRIMARY KEY (instance, order_id, seq, day)
) PARTITION BY RANGE (day);
CREATE TABLE order_events_other PARTITION OF order_events DEFAULT;

CREATE TABLE fills (
    instance text NOT NULL,
    day date NOT NULL,
    id bigint NOT NULL,
    ts bigint NOT NULL,
    event_id text,
    order_id text,
    mode text,
    symbol text,
    side text,
    qty numeric,
    price numeric,
    fees numeric,
    cash_delta numeric,
    is_shadow bigint,
    PRIMARY KEY (instance, id, day)
) PARTITION BY RANGE (day);
CREATE TABLE fills_other PARTITION OF fills DEFAULT;

CREATE TABLE positions (
    instance text NOT NULL,
    day date NOT NULL,
    fill_id bigint NOT NULL,
    ts bigint NOT NULL,
    mode text NOT NULL,
    symbol text NOT NULL,
    qty numeric,
    cash numeric,
    fees numeric,
    price numeric,
    PRIMARY KEY (instance, fill_id, mode, symbol, day)
) PARTITION BY RANGE (day);
CREATE TABLE positions_other PARTITION OF positions DEFAULT;

CREATE TABLE gaps (
    instance text NOT NULL,
    day date NOT NULL,
    version bigint NOT NULL,
    ts bigint NOT NULL,
    source text NOT NULL,
    market text NOT NULL,
    first bigint NOT NULL,
    last bigint,
    PRIMARY KEY (instance, version, source, market, first, day)
) PARTITION BY RANGE (day);
CREATE TABLE gaps_other PARTITION OF gaps DEFAULT;

CREATE TABLE decisions (
    instance text NOT NULL,
    day date NOT NULL,
    at_byte bigint NOT NULL,
    ts bigint NOT NULL,
    action text,
    line text,
    PRIMARY KEY (instance, at_byte, day)
) PARTITION BY RANGE (day);
CREATE TABLE decisions_other PARTITION OF decisions DEFAULT;

CREATE TABLE heartbeats (
    instance text NOT NULL,
    day date NOT NULL,
    at_us bigint NOT NULL,
    ts bigint NOT NULL,
    line text,
    PRIMARY KEY (instance, at_us, day)
) PARTITION BY RANGE (day);
CREATE TABLE heartbeats_other PARTITION OF heartbeats DEFAULT;

-- How far the stream was read, in the same transaction as its rows. stream_made: when the stream was; another one has
-- other sequence numbers.
CREATE TABLE progress (
    stream text PRIMARY KEY,
    stream_made timestamptz NOT NULL,
    sequence bigint NOT NULL,
    stored_at timestamptz NOT NULL
);

-- How far each table of each instance has come: the end of its last message.
CREATE TABLE places (
    instance text NOT NULL,
    tab text NOT NULL,
    place jsonb NOT NULL,
    sequence bigint NOT NULL,
    ledger_schema bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    PRIMARY KEY (instance, tab)
);

-- Messages that do not go on from where the one before them ended: what lies between was lost on the way.
CREATE TABLE breaks (
    instance text NOT NULL,
    tab text NOT NULL,
    sequence bigint NOT NULL,
    expected jsonb,
    found jsonb,
    noticed_at timestamptz NOT NULL,
    PRIMARY KEY (instance, tab, sequence, noticed_at)
);

-- Messages that are none of a relay's, and what is wrong with them.
CREATE TABLE refused (
    stream text NOT NULL,
    sequence bigint NOT NULL,
    subject text NOT NULL,
    reason text NOT NULL,
    noticed_at timestamptz NOT NULL,
    PRIMARY KEY (stream, sequence, noticed_at)
);
