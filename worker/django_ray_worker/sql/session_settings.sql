-- Whatever role or database say: our sessions may idle, and are not cut while they wait.
SELECT
    set_config('idle_session_timeout', '0', false),
    set_config('idle_in_transaction_session_timeout', '60s', false),
    set_config('statement_timeout', '0', false),
    set_config('lock_timeout', '0', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false)
