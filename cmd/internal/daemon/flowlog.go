package daemon

import (
	"fmt"

	"penstock/cmd/internal/flowlog"
)

func (d *Daemon) openFlowLog() (*flowlog.Log, error) {
	c := d.cfg.FlowLog
	l, err := flowlog.Open(flowlog.Config{
		File: c.File, MaxSize: int64(c.MaxSize), Keep: c.Keep, Dropped: d.metrics.flowLogDropped, Log: d.log,
	})
	if err != nil {
		return nil, fmt.Errorf("flow_log.file: %w", err)
	}
	return l, nil
}
