// Counts calls and system errors per tenant and month: franz-go, sonic, client_golang.
//
//	peer BROKERS TOPIC EVENTS [dedupe]
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bytedance/sonic"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

type call struct {
	Tenant      string    `json:"tenant"`
	RequestID   string    `json:"request_id"`
	Timestamp   time.Time `json:"timestamp"`
	Code        any       `json:"code"`
	SystemError *bool     `json:"system_error"`
}

var zone = time.FixedZone("CST", 8*3600)

// failed says whether the call counts as a system error: by its flag, or without one by its code.
func (c *call) failed() bool {
	if c.SystemError != nil {
		return *c.SystemError
	}
	code, _ := c.Code.(string)
	family, _, _ := strings.Cut(code, ".")
	return family == "InternalError" || family == "ServiceUnavailable"
}

func main() {
	if len(os.Args) < 4 {
		log.Fatal("usage: peer BROKERS TOPIC EVENTS [dedupe]")
	}
	events, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	var seen map[string]struct{}
	if len(os.Args) > 4 && os.Args[4] == "dedupe" {
		seen = make(map[string]struct{})
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Args[1], ",")...),
		kgo.ConsumeTopics(os.Args[2]),
		kgo.ConsumerGroup(fmt.Sprintf("peer-go-%d", os.Getpid())),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "calls_total"}, []string{"tenant", "month"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "system_errors_total"}, []string{"tenant", "month"})
	prometheus.MustRegister(calls, failures)

	for read := 0; read < events; {
		fetches := client.PollFetches(context.Background())
		fetches.EachError(func(topic string, partition int32, err error) { log.Fatal(topic, partition, err) })
		fetches.EachRecord(func(record *kgo.Record) {
			read++
			var c call
			if err := sonic.Unmarshal(record.Value, &c); err != nil {
				log.Fatal(err)
			}
			if seen != nil {
				if _, again := seen[c.RequestID]; again {
					return
				}
				seen[c.RequestID] = struct{}{}
			}
			month := c.Timestamp.In(zone).Format("2006-01")
			calls.WithLabelValues(c.Tenant, month).Inc()
			if c.failed() {
				failures.WithLabelValues(c.Tenant, month).Inc()
			}
		})
	}
	report()
}

// report prints what the counters hold.
func report() {
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		log.Fatal(err)
	}
	figures := map[string]map[string]float64{}
	for _, family := range families {
		figures[family.GetName()] = map[string]float64{}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			figures[family.GetName()][labels["tenant"]+" "+labels["month"]] = metric.GetCounter().GetValue()
		}
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for key, count := range figures["calls_total"] {
		fmt.Fprintf(out, "%s %.0f %.0f\n", key, count, figures["system_errors_total"][key])
	}
}
