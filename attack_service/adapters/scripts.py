"""What an attempt at a shard changes in Redis, at once or not at all: a Lua script a change.

Each answers with a word that `ledger.RedisLedger` understands. All but `BEGIN` and `RENEW` are fenced: they compare the
attempt's number with the newest and change nothing for one that was overtaken.
"""

from __future__ import annotations

from attack_service.adapters.job_store import NOTIFY

BEGIN = (
    NOTIFY
    + """
-- KEYS: record, open, changes, meta, lease, warnings.
-- ARGV: job id, now, owner, dead owner or '', lease ms, attempt limit, failure, then the numbers of the states QUEUED,
-- RUNNING, FAILED, CANCELED, and the warning of a job that is canceled without its worker.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'missing', ''} end
if state ~= ARGV[8] and state ~= ARGV[9] then return {'ended', ''} end
local function finish(final, message)
  redis.call('HSET', KEYS[1], 'state', final, 'end_time', ARGV[2], 'failure_message', message)
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('DEL', KEYS[5])
  notify(KEYS[3])
  return {'ended', ''}
end
local holder = redis.call('GET', KEYS[5])
if holder and holder ~= ARGV[3] and holder ~= ARGV[4] then return {'held', holder} end
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then
  if state == ARGV[9] then redis.call('ZADD', KEYS[6], ARGV[2], ARGV[12]) end
  return finish(ARGV[11], '')
end
if tonumber(redis.call('HGET', KEYS[4], 'lost') or '0') >= tonumber(ARGV[6]) then return finish(ARGV[10], ARGV[7]) end
local attempt = redis.call('HINCRBY', KEYS[4], 'attempt', 1)
-- Counted as lost until it says otherwise: the one that is lost cannot.
redis.call('HINCRBY', KEYS[4], 'lost', 1)
redis.call('HSETNX', KEYS[1], 'start_time', ARGV[2])
redis.call('HSET', KEYS[1], 'state', ARGV[9], 'attempt_count', attempt)
redis.call('SET', KEYS[5], ARGV[3], 'PX', ARGV[5])
notify(KEYS[3])
return {'begun', tostring(attempt)}
"""
)

_FENCE = (
    NOTIFY
    + """
-- Every script below has the keys record, changes, meta, and the attempt and the number of RUNNING as its first
-- arguments.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local ended = redis.call('HEXISTS', KEYS[1], 'end_time') == 1
local newest = tonumber(redis.call('HGET', KEYS[3], 'attempt') or '0')
if newest > tonumber(ARGV[1]) then return 'fenced' end
-- A Redis that lost its last second may have forgotten that this attempt began.
if newest < tonumber(ARGV[1]) and not ended then
  redis.call('HSET', KEYS[3], 'attempt', ARGV[1])
  redis.call('HSET', KEYS[1], 'state', ARGV[2], 'attempt_count', ARGV[1])
end
"""
)

APPEND = (
    _FENCE
    + """
-- KEYS[4]: stream.  ARGV from 3: sequence, id, payload, samples in it, then the tally after it.
if ended then return 'fenced' end
local following = tonumber(redis.call('HGET', KEYS[3], 'sequence') or '0')
local sequence = tonumber(ARGV[3])
-- The same append again, because its answer was lost.
local append = ARGV[1] .. ':' .. ARGV[4]
if following == sequence + 1 and redis.call('HGET', KEYS[3], 'last_append') == append then return 'ok' end
if following ~= sequence then return tostring(following) end
redis.call('XADD', KEYS[4], ARGV[4], 'b', ARGV[5], 's', ARGV[3])
redis.call('HSET', KEYS[3], 'sequence', sequence + 1, 'last_append', append, 'failed_count', ARGV[7],
  'survived_count', ARGV[8], 'misclassified_count', ARGV[9], 'checksum', ARGV[10])
-- A job that gets on is no poison, however many workers it costs.
if ARGV[6] ~= '0' then redis.call('HSET', KEYS[3], 'lost', 1) end
return 'ok'
"""
)

SET = (
    _FENCE
    + """
-- KEYS[4]: progress, KEYS[5]: warnings.  ARGV from 3: progress, model record, a warning, now. What is empty changes
-- nothing.
if ended then return 'fenced' end
if ARGV[3] ~= '' then redis.call('SET', KEYS[4], ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'model_record', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('ZADD', KEYS[5], 'NX', ARGV[6], ARGV[5]) end
notify(KEYS[2])
return 'ok'
"""
)

LEAVE = (
    _FENCE
    + """
-- KEYS[4]: lease, KEYS[5]: open.
-- ARGV from 3: job id, now, new state, failure, the batches that must be in the log or '', then the numbers of QUEUED
-- and CANCELED.
if ended then return 'ok' end
local following = redis.call('HGET', KEYS[3], 'sequence') or '0'
if ARGV[7] ~= '' and ARGV[7] ~= following then return following end
if redis.call('DEL', KEYS[4]) == 1 then redis.call('HINCRBY', KEYS[3], 'lost', -1) end
local final = ARGV[5]
if final == ARGV[8] and redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then final = ARGV[9] end
redis.call('HSET', KEYS[1], 'state', final, 'failure_message', ARGV[6])
if final ~= ARGV[8] then
  redis.call('HSET', KEYS[1], 'end_time', ARGV[4])
  redis.call('SREM', KEYS[5], ARGV[3])
end
notify(KEYS[2])
return 'ok'
"""
)

RENEW = """
-- KEYS: record, meta, lease.  ARGV: attempt, number of RUNNING, owner, lease ms.
-- Not once the attempt has left: the next one would wait for a lease that nobody holds.
local running = redis.call('HGET', KEYS[1], 'state') == ARGV[2]
if not running or redis.call('HGET', KEYS[2], 'attempt') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
return 1
"""
