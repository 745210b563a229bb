drop function vespid_x_record_turn_usage;
drop function vespid_x_record_usage;
drop function vespid_i_record_usage;
drop table model_usage;
