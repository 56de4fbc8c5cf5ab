-- What a ledger itself says of its positions, the newest of each.
CREATE VIEW positions_now AS
SELECT DISTINCT ON (instance, mode, symbol)
    instance, mode, symbol, qty, cash, fees, price, fill_id, ts
FROM positions
ORDER BY instance, mode, symbol, fill_id DESC;

-- The same from the fills alone. The earlier engine's fills have no mode, and are in no position.
CREATE VIEW positions_by_fills AS
SELECT
    instance, mode, symbol,
    sum(CASE side WHEN 'BUY' THEN qty ELSE -qty END) AS qty,
    sum(cash_delta) AS cash,
    sum(fees) AS fees,
    (array_agg(price ORDER BY id DESC))[1] AS price,
    max(id) AS fill_id,
    max(ts) AS ts
FROM fills
WHERE mode IS NOT NULL
GROUP BY instance, mode, symbol;

-- Books that do not balance: where all fills are here of which a position speaks, no later one is, and the two differ.
CREATE VIEW positions_differing AS
SELECT
    said.instance, said.mode, said.symbol,
    said.qty AS qty_said, summed.qty AS qty_summed, said.cash AS cash_said, summed.cash AS cash_summed,
    said.fees AS fees_said, summed.fees AS fees_summed
FROM positions_now AS said
JOIN places ON places.instance = said.instance AND places.tab = 'fills'
JOIN positions_by_fills AS summed
    ON summed.instance = said.instance AND summed.mode = said.mode AND summed.symbol = said.symbol
WHERE (places.place ->> 'id')::bigint >= said.fill_id
    AND summed.fill_id <= said.fill_id
    AND (said.qty, said.cash, said.fees) IS DISTINCT FROM (summed.qty, summed.cash, summed.fees);

-- Realised profit by average cost: a position that grows is averaged, one that shrinks realises, one that changes its
-- side realises all of it and begins anew at the fill's price. State: quantity, average price, realised so far.
CREATE FUNCTION realise(state numeric[], signed_qty numeric, price numeric) RETURNS numeric[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN signed_qty = 0 THEN state
    WHEN state[1] = 0 THEN ARRAY[signed_qty, price, state[3]]
    WHEN sign(state[1]) = sign(signed_qty) THEN
        ARRAY[state[1] + signed_qty, (state[1] * state[2] + signed_qty * price) / (state[1] + signed_qty), state[3]]
    WHEN abs(signed_qty) <= abs(state[1]) THEN
        ARRAY[state[1] + signed_qty, state[2], state[3] - signed_qty * (price - state[2])]
    ELSE
        ARRAY[state[1] + signed_qty, price, state[3] + state[1] * (price - state[2])]
END;

CREATE AGGREGATE realised(numeric, numeric) (
    SFUNC = realise,
    STYPE = numeric[],
    INITCOND = '{0.000000000000000000000000,0.000000000000000000000000,0}'
);

-- By symbol. price: the latest fill's, at which what is still held is valued.
CREATE VIEW pnl_by_symbol AS
WITH summed AS (
    SELECT
        instance, mode, symbol,
        realised(CASE side WHEN 'BUY' THEN qty ELSE -qty END, price ORDER BY id) AS state,
        sum(fees) AS fees,
        (array_agg(price ORDER BY id DESC))[1] AS price,
        count(*) AS fills
    FROM fills
    WHERE mode IS NOT NULL
    GROUP BY instance, mode, symbol
)
SELECT
    instance, mode, symbol, fills,
    state[3] AS realised,
    state[1] * (price - state[2]) AS unrealised,
    fees,
    state[3] + state[1] * (price - state[2]) - fees AS total
FROM summed;

CREATE VIEW pnl_by_instance AS
SELECT instance, mode, sum(fills) AS fills, sum(realised) AS realised, sum(unrealised) AS unrealised,
    sum(fees) AS fees, sum(total) AS total
FROM pnl_by_symbol
GROUP BY instance, mode;

-- Why did we not trade?
CREATE VIEW veto_reasons AS
SELECT
    instance, day, symbol, veto, count(*) AS signals,
    (array_agg(veto_detail ORDER BY id DESC))[1] AS latest_detail,
    max(ts) AS latest_ts
FROM signals
WHERE veto IS NOT NULL
GROUP BY instance, day, symbol, veto;

-- An order as it stands: its latest transition.
CREATE VIEW orders_now AS
SELECT DISTINCT ON (o.instance, o.id)
    o.*, e.seq, e.status, e.reason, e.filled_qty, e.ts AS updated_ts, e.detail
FROM orders AS o
LEFT JOIN order_events AS e USING (instance, order_id)
ORDER BY o.instance, o.id, e.seq DESC;

-- The trades that each ledger knows to be missing now.
CREATE VIEW gaps_now AS
SELECT g.instance, g.source, g.market, g.first, g.last, g.last - g.first + 1 AS trades, g.ts
FROM gaps AS g
WHERE g.source <> ''
    AND g.version = (SELECT max(version) FROM gaps AS newest WHERE newest.instance = g.instance);
