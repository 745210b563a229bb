-- now, signature, requirement -> nothing. From here on every upsert counts the signature in.
if call('HSETNX', P .. 'sigs', ARGV[2], 'L' .. ARGV[3]) == 1 then
  call('HSET', KEYS[1], 'sigv', text(now) .. '.' .. text(next_seq()))
end
return redis.status_reply('OK')
