-- Time-ordered ids made by the database, so that "oldest first" follows one clock, whatever the web servers think.
-- PostgreSQL 18 has a native function; before it, the first 60 bits are the time in microseconds (RFC 9562, method 3).
DO $do$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        EXECUTE 'CREATE FUNCTION django_ray_uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN uuidv7()';
    ELSE
        CREATE FUNCTION django_ray_uuid7() RETURNS uuid LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS $$
        DECLARE
            us bigint := extract(epoch FROM clock_timestamp()) * 1000000;
        BEGIN
            RETURN (lpad(to_hex(us / 1000), 12, '0')
                || '7' || lpad(to_hex((us % 1000) * 4096 / 1000), 3, '0')
                || substr(replace(gen_random_uuid()::text, '-', ''), 17))::uuid;
        END
        $$;
    END IF;
END
$do$;
