"""The tables. Times are seconds since 1970 (UTC), money is billionths, so that sums are exact."""

TABLES = (
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, digest TEXT NOT NULL, name TEXT NOT NULL, endpoints TEXT NOT NULL, models TEXT NOT NULL,
        created_at BIGINT NOT NULL, expires_at BIGINT, revoked_at BIGINT, used_at BIGINT,
        requests_per_minute BIGINT, requests_per_day BIGINT, tokens_per_minute BIGINT, tokens_per_day BIGINT,
        budget_nano BIGINT, told_month BIGINT NOT NULL, scopes TEXT NOT NULL DEFAULT '["answers"]')""",
    # What is used of a quota, what is reserved included: a row for each minute or day in which a key asked.
    """CREATE TABLE IF NOT EXISTS windows (
        key_id TEXT NOT NULL, period_seconds BIGINT NOT NULL, started_at BIGINT NOT NULL,
        requests BIGINT NOT NULL, tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL,
        PRIMARY KEY (key_id, period_seconds, started_at))""",
    # What was used, for good.
    """CREATE TABLE IF NOT EXISTS meter (
        key_id TEXT NOT NULL, day_at BIGINT NOT NULL, endpoint TEXT NOT NULL, requests BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL,
        PRIMARY KEY (key_id, day_at, endpoint))""",
    """CREATE TABLE IF NOT EXISTS requests (
        id TEXT PRIMARY KEY, request_id TEXT NOT NULL, key_id TEXT NOT NULL, asked_at DOUBLE PRECISION NOT NULL,
        endpoint TEXT NOT NULL, model TEXT NOT NULL, path TEXT NOT NULL, status BIGINT, prompt_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL, duration_seconds DOUBLE PRECISION, body TEXT)""",
    "CREATE INDEX IF NOT EXISTS requests_by_time ON requests (asked_at)",
    """CREATE TABLE IF NOT EXISTS audit (
        done_at DOUBLE PRECISION NOT NULL, action TEXT NOT NULL, key_id TEXT NOT NULL, actor TEXT NOT NULL,
        details TEXT NOT NULL)""",
)

# What a table of keys lacks that was made before keys had scopes.
ADDED_COLUMN = """ALTER TABLE keys ADD COLUMN scopes TEXT NOT NULL DEFAULT '["answers"]'"""
