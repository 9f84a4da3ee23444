package server

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ingot/internal/api"
	"ingot/internal/conductor"
	"ingot/internal/journal"
	"ingot/internal/store"
)

// Names of the metrics: a rename is a visible decision.
const (
	metricRequests = "ingot_api_request_duration_seconds"
	metricNodes    = "ingot_nodes"
	metricDropped  = "ingot_journal_dropped_total"
)

// maxScrapes is how many may ask for the metrics at once, others get a 503: an answer is long where there are many nodes.
const maxScrapes = 4

// metrics is what the process tells Prometheus.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
}

// newMetrics registers everything that is measured.
func newMetrics(st *store.Store, j *journal.Journal, c *conductor.Conductor) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricRequests,
			Help: "Time to answer a request of the API, by route and status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
				60},
		}, []string{"method", "route", "status"}),
	}
	m.registry.MustRegister(m.requests, &nodeCounts{st}, &sensors{c}, prometheus.NewCounterFunc(
		prometheus.CounterOpts{
			Name: metricDropped,
			Help: "Journal entries lost because the queue was full or the store refused them.",
		}, func() float64 { return float64(j.Dropped()) }),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// methods are the ones with a label of their own. Clients may send any word, and each label is
// kept for ever.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
	http.MethodPatch, http.MethodDelete, http.MethodOptions}

// request records one answered request.
func (m *metrics) request(o api.Observation) {
	method := o.Method
	if !slices.Contains(methods, method) {
		method = "other"
	}
	m.requests.WithLabelValues(method, o.Route, strconv.Itoa(o.Status)).
		Observe(o.Duration.Seconds())
}

// nodeCounts counts nodes by provision state when asked; the store does it by index.
type nodeCounts struct{ store *store.Store }

var nodesDesc = prometheus.NewDesc(metricNodes, "Nodes by provision state.",
	[]string{"provision_state"}, nil)

// Describe tells what Collect yields.
func (c *nodeCounts) Describe(ch chan<- *prometheus.Desc) { ch <- nodesDesc }

// Collect counts. A store that does not answer shows as a failed scrape.
func (c *nodeCounts) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts, err := c.store.CountNodes(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(nodesDesc, err)
		return
	}
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(nodesDesc, prometheus.GaugeValue, float64(n), state)
	}
}
