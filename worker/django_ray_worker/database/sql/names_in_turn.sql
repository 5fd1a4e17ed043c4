            -- Of a queue that gave all that there was room for, more may be there, and nobody has locked it.
            ARRAY(
                SELECT queue.name FROM queue WHERE (
                    SELECT count(*) FROM chosen JOIN head USING (task_id) WHERE head.name = queue.name
                ) < coalesce((%(rooms)s::jsonb ->> queue.name)::bigint, %(limit)s::bigint)
            )
