-- now, executor, connection epoch
-- -> { '1' removed | '0' a newer connection is known, then request and organization of each offer taken back }, handed
-- Confirmed requests stay on it: their leases go on, and it may come back.
local x, key = ARGV[2], P .. 'x:' .. ARGV[2]
local known = call('HMGET', key, 'c', 's')
if known[1] and tonumber(known[1]) > tonumber(ARGV[3]) then return { { '0' }, handed } end
for sig in string.gmatch(known[2] or '', '%S+') do
  call('ZREM', P .. 'room:' .. sig, x)
  call('SREM', P .. 'm:' .. sig, x)
end
call('SREM', P .. 'xs', x)
call('HDEL', key, 'e', 'cap', 'r', 's', 'l', 'v', 'caps')
-- the epoch outlives the connection, so that what the old one still says is known for old
call('HSET', key, 'c', ARGV[3])
call('PEXPIRE', key, EPOCH_KEPT_MS)
if not meta[1] then return { { '1' }, handed } end
local queues, answer = {}, { '1' }
handing_on(function()
  for _, request in ipairs(call('SMEMBERS', P .. 'f:' .. x)) do
    local record = find(request)
    if record[STATE] == 'u' then
      give_back(request, record)
      answer[#answer + 1] = request
      answer[#answer + 1] = record[ORG]
      if record[WAIT] == '1' then
        enqueue(request, record)
        queues[record[QUEUE]] = true
      else
        forget_ask(request, record)
      end
    end
  end
  return {}
end, 16)
for queue in pairs(queues) do serve_queue(queue, 16) end
expire(8)
return { answer, handed }
