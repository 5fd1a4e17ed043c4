-- Whatever role or database say: our sessions may idle, and run as long as they take. They wait for no lock without end: what
-- meets one gives up in time to be asked again on the same connection. Of one that nobody can reach any more, the locks are
-- soon free. And whatever the statistics say, or do not say yet: every statement is a few probes of an index, and is planned
-- once.
SELECT
    set_config('idle_session_timeout', '0', false),
    set_config('idle_in_transaction_session_timeout', '10s', false),
    set_config('statement_timeout', '0', false),
    set_config('lock_timeout', '3s', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('enable_seqscan', 'off', false),
    set_config('enable_hashjoin', 'off', false),
    set_config('enable_mergejoin', 'off', false),
    set_config('enable_bitmapscan', 'off', false),
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('jit', 'off', false)
