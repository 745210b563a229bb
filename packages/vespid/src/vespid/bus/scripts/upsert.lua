-- now, executor, connection epoch, edge, capacity, routable, capabilities, signatures, sigv they were matched at
-- -> { 'OK' | 'STALE' (a newer connection is known) | 'RETRY' (a signature came up meanwhile) }, handed
local x, key = ARGV[2], P .. 'x:' .. ARGV[2]
local known = call('HMGET', key, 'c', 's', 'l')
if known[1] and tonumber(known[1]) > tonumber(ARGV[3]) then return { { 'STALE' }, handed } end
if (call('HGET', KEYS[1], 'sigv') or '') ~= ARGV[9] then return { { 'RETRY' }, handed } end
local matched = ' ' .. ARGV[8] .. ' '
for sig in string.gmatch(known[2] or '', '%S+') do
  if not string.find(matched, ' ' .. sig .. ' ', 1, true) then
    call('ZREM', P .. 'room:' .. sig, x)
    call('SREM', P .. 'm:' .. sig, x)
  end
end
for sig in string.gmatch(ARGV[8], '%S+') do call('SADD', P .. 'm:' .. sig, x) end
call('HSET', key, 'c', ARGV[3], 'e', ARGV[4], 'cap', ARGV[5], 'r', ARGV[6], 's', ARGV[8], 'caps', ARGV[7],
  'v', text(next_seq()))
call('PERSIST', key)
call('SADD', P .. 'xs', x)
place(x, { ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[8], known[3] or '0' })
if meta[1] then
  expire(8)
  serve_executor(x, 64)
end
return { { 'OK' }, handed }
