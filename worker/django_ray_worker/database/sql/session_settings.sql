-- Whatever role or database say: our sessions may idle, and are not cut while they wait. And whatever the statistics say, or
-- do not say yet: every statement is a few probes of an index, and is planned once.
SELECT
    set_config('idle_session_timeout', '0', false),
    set_config('idle_in_transaction_session_timeout', '60s', false),
    set_config('statement_timeout', '0', false),
    set_config('lock_timeout', '0', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('enable_seqscan', 'off', false),
    set_config('enable_hashjoin', 'off', false),
    set_config('enable_mergejoin', 'off', false),
    set_config('enable_bitmapscan', 'off', false),
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('jit', 'off', false)
