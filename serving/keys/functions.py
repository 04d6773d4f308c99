"""The two transactions of a request (ledger.py) as functions of PostgreSQL: each is one way to the server and back,
instead of five and four. A statement in them sees what was done before it began, also while it waited for the lock.
"""

# Replicas of several versions of this project share a database: a function that changes gets another name.
RESERVE = "trunkline_reserve_1"
SETTLE = "trunkline_settle_1"
FUNCTIONS = (
    f"""CREATE OR REPLACE FUNCTION {RESERVE}(
        of_key TEXT, asked DOUBLE PRECISION, minute BIGINT, day BIGINT, month BIGINT, cost BIGINT,
        logged BOOLEAN, entry TEXT, request TEXT, of_endpoint TEXT, of_model TEXT, of_path TEXT,
        prompt BIGINT, completion BIGINT, of_body TEXT)
    RETURNS BOOLEAN LANGUAGE plpgsql AS $$
    DECLARE
        own keys%ROWTYPE;
        in_minute windows%ROWTYPE;
        in_day windows%ROWTYPE;
        taken BIGINT := prompt + completion;
    BEGIN
        UPDATE keys SET used_at = trunc(asked) WHERE id = of_key RETURNING * INTO own;
        IF NOT FOUND OR own.revoked_at IS NOT NULL OR own.expires_at <= asked THEN
            RETURN FALSE;
        END IF;
        SELECT * INTO in_minute FROM windows WHERE key_id = of_key AND period_seconds = 60 AND started_at = minute;
        SELECT * INTO in_day FROM windows WHERE key_id = of_key AND period_seconds = 86400 AND started_at = day;
        IF COALESCE(in_minute.requests, 0) + 1 > own.requests_per_minute
            OR COALESCE(in_minute.tokens, 0) + taken > own.tokens_per_minute
            OR COALESCE(in_day.requests, 0) + 1 > own.requests_per_day
            OR COALESCE(in_day.tokens, 0) + taken > own.tokens_per_day
            OR own.budget_nano IS NOT NULL AND cost + (SELECT COALESCE(SUM(cost_nano), 0) FROM windows
                WHERE key_id = of_key AND period_seconds = 86400 AND started_at >= month) > own.budget_nano
        THEN
            RETURN FALSE;
        END IF;
        INSERT INTO windows (key_id, period_seconds, started_at, requests, tokens, cost_nano)
            SELECT of_key, period, began, 1, taken, cost
            FROM (VALUES (86400, day), (60, minute)) AS spans (period, began)
            WHERE period = 86400 OR own.requests_per_minute IS NOT NULL OR own.tokens_per_minute IS NOT NULL
            ON CONFLICT (key_id, period_seconds, started_at) DO UPDATE SET requests = windows.requests + 1,
            tokens = windows.tokens + excluded.tokens, cost_nano = windows.cost_nano + excluded.cost_nano;
        IF logged THEN
            INSERT INTO requests (id, request_id, key_id, asked_at, endpoint, model, path, prompt_tokens,
                completion_tokens, cost_nano, body)
            VALUES (entry, request, of_key, asked, of_endpoint, of_model, of_path, prompt, completion, cost, of_body);
        END IF;
        RETURN TRUE;
    END $$""",
    f"""CREATE OR REPLACE FUNCTION {SETTLE}(
        of_key TEXT, minute BIGINT, day BIGINT, more_tokens BIGINT, more_cost BIGINT, of_endpoint TEXT,
        prompt BIGINT, completion BIGINT, cost BIGINT, logged BOOLEAN, entry TEXT, of_status BIGINT,
        duration DOUBLE PRECISION)
    RETURNS BOOLEAN LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM 1 FROM keys WHERE id = of_key FOR UPDATE;
        UPDATE windows SET tokens = tokens + more_tokens, cost_nano = cost_nano + more_cost WHERE key_id = of_key
            AND ((period_seconds = 60 AND started_at = minute) OR (period_seconds = 86400 AND started_at = day));
        INSERT INTO meter (key_id, day_at, endpoint, requests, prompt_tokens, completion_tokens, cost_nano)
            VALUES (of_key, day, of_endpoint, 1, prompt, completion, cost)
            ON CONFLICT (key_id, day_at, endpoint) DO UPDATE SET requests = meter.requests + 1,
            prompt_tokens = meter.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = meter.completion_tokens + excluded.completion_tokens,
            cost_nano = meter.cost_nano + excluded.cost_nano;
        IF logged THEN
            UPDATE requests SET status = of_status, prompt_tokens = prompt, completion_tokens = completion,
                cost_nano = cost, duration_seconds = duration WHERE id = entry;
        END IF;
        RETURN TRUE;
    END $$""",
)
