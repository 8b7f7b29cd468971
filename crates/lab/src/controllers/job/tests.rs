use super::*;
use crate::world::WorldEvent;
use k8s_openapi::api::batch::v1::JobStatus;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

/// A Job in a world whose clock is told, with an API server and kubelets that do as they should.
struct Play {
    world: World,
    now: Timestamp,
    serial: u32,
}

impl Play {
    fn new(spec: &Value) -> Self {
        let mut whole = json!({
            "completions": 1, "parallelism": 1, "backoffLimit": 2,
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}},
        });
        for (name, value) in spec.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "job"}, "spec": whole});
        let mut world = World::default();
        let event = WorldEvent::Job(Event::Apply(serde_json::from_value(job).unwrap()));
        world.absorb(event, Timestamp::UNIX_EPOCH);
        Self { world, now: Timestamp::UNIX_EPOCH, serial: 1 }
    }

    fn job(&self) -> Option<&Arc<Job>> {
        self.world.jobs.get("n", "j")
    }

    fn status(&self) -> JobStatus {
        self.job().unwrap().status.clone().unwrap_or_default()
    }

    /// Conditions that hold.
    fn says(&self) -> Vec<String> {
        let conditions = self.status().conditions.unwrap_or_default();
        conditions.into_iter().filter(|one| one.status == "True").map(|one| one.type_).collect()
    }

    fn running(&self) -> Vec<String> {
        self.world.pods.iter().filter(|pod| is_active(pod)).map(|pod| pod.name_any()).collect()
    }

    /// Does all that is to be done now.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..20 {
            let actions = reconcile(&self.world, self.now);
            if actions.is_empty() {
                return self;
            }
            for action in actions {
                self.serial += 1;
                match action {
                    Action::Create { kind: Kind::Pod, mut object } => {
                        let start = object["metadata"]["generateName"].as_str().unwrap().to_owned();
                        object["metadata"]["name"] = json!(format!("{start}{:03}", self.serial));
                        object["metadata"]["uid"] = json!(self.serial.to_string());
                        object["status"] = json!({"phase": "Running"});
                        self.world.set_pod(serde_json::from_value(object).unwrap());
                    }
                    Action::Delete { kind: Kind::Pod, key, .. } => self.world.remove_pod(&key),
                    Action::Delete { kind: Kind::Job, .. } => {
                        let job = Job::clone(self.job().unwrap());
                        self.world.jobs.remove(&job);
                    }
                    Action::Patch { kind: Kind::Job, patch, .. } => {
                        let mut whole = json!(self.job().unwrap().as_ref());
                        json_patch::merge(&mut whole, &patch);
                        whole["metadata"]["resourceVersion"] = json!(self.serial.to_string());
                        self.world.jobs.set(serde_json::from_value(whole).unwrap());
                    }
                    _ => {}
                }
            }
        }
        panic!("no end: {:?}", reconcile(&self.world, self.now));
    }

    /// All pods that run come to an end.
    fn end(&mut self, how: &str) -> &mut Self {
        for name in self.running() {
            let mut pod = Pod::clone(self.world.pods.get("n", &name).unwrap());
            self.serial += 1;
            pod.metadata.resource_version = Some(self.serial.to_string());
            pod.status = Some(
                serde_json::from_value(json!({
                    "phase": how, "containerStatuses": [{
                        "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                        "state": {"terminated": {"exitCode": 1, "finishedAt": self.now}},
                    }],
                }))
                .unwrap(),
            );
            self.world.set_pod(pod);
        }
        self.settle()
    }

    fn wait(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self.settle()
    }
}

#[test]
fn a_job_is_complete_after_so_many_successes_and_never_has_more_pods_than_it_may() {
    let mut play = Play::new(&json!({"completions": 5, "parallelism": 2}));
    play.settle();
    let mut sizes = Vec::new();
    while play.says().is_empty() {
        sizes.push(play.running().len());
        play.end("Succeeded");
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(play.says(), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!((play.status().succeeded, play.status().active), (Some(5), None));
    assert!(play.status().completion_time.is_some());
}

#[test]
fn after_a_failure_a_job_waits_ever_longer_and_gives_up_beyond_its_limit() {
    let mut play = Play::new(&json!({}));
    play.settle();
    for backoff in [10, 20] {
        play.end("Failed");
        assert_eq!(play.running().len(), 0);
        play.wait(backoff - 1);
        assert_eq!(play.running().len(), 0, "after {} s", backoff - 1);
        play.wait(1);
        assert_eq!(play.running().len(), 1, "after {backoff} s");
    }
    play.end("Failed");
    assert_eq!(play.says(), ["FailureTarget", "Failed"]);
    assert_eq!(play.status().failed, Some(3));
    assert!(play.status().completion_time.is_none());
    let conditions = play.status().conditions.unwrap();
    assert_eq!(conditions[1].reason.as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn a_job_that_takes_too_long_has_failed_and_its_pods_end() {
    let mut play = Play::new(&json!({"activeDeadlineSeconds": 30}));
    play.settle().wait(29);
    assert_eq!((play.running().len(), play.says().len()), (1, 0));
    play.wait(1);
    assert_eq!((play.running().len(), play.says()), (0, vec!["FailureTarget".into(), "Failed".into()]));
}

#[test]
fn a_finished_job_goes_after_its_time_and_without_one_stays() {
    let mut play = Play::new(&json!({"ttlSecondsAfterFinished": 5}));
    play.settle().end("Succeeded").wait(4);
    assert!(play.job().is_some());
    play.wait(1);
    assert!(play.job().is_none());
    let mut play = Play::new(&json!({}));
    play.settle().end("Succeeded").wait(100_000);
    assert!(play.job().is_some());
}

#[test]
fn each_index_is_done_once_and_pods_know_theirs() {
    let mut play = Play::new(&json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    play.settle();
    assert_eq!(play.running(), ["j-0-002", "j-1-003", "j-2-004"]);
    let pod = play.world.pods.get("n", "j-1-003").unwrap();
    assert_eq!((index_of(pod), pod.labels()[INDEX].as_str()), (Some(1), "1"));
    let variables = pod.spec.as_ref().unwrap().containers[0].env.clone().unwrap();
    assert_eq!(variables[0].name, INDEX_VARIABLE);
    play.end("Succeeded");
    assert_eq!(play.status().completed_indexes.as_deref(), Some("0-2"));
    play.end("Succeeded");
    assert_eq!(play.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(play.says(), ["SuccessCriteriaMet", "Complete"]);
}

#[test]
fn a_suspended_job_has_no_pods_and_goes_on_once_it_may() {
    let mut play = Play::new(&json!({"suspend": true}));
    play.settle();
    assert_eq!((play.running().len(), play.says()), (0, vec!["Suspended".to_owned()]));
    let mut job = Job::clone(play.job().unwrap());
    job.spec.as_mut().unwrap().suspend = Some(false);
    job.metadata.resource_version = Some("1000".to_owned());
    play.serial = 1000;
    play.world.jobs.set(job);
    play.settle();
    assert_eq!((play.running().len(), play.says().len()), (1, 0));
}

#[test]
fn without_a_number_the_first_success_is_the_last_start() {
    let mut play = Play::new(&json!({"completions": null, "parallelism": 2}));
    play.settle();
    assert_eq!(play.running().len(), 2);
    play.end("Succeeded");
    assert_eq!(play.says(), ["SuccessCriteriaMet", "Complete"]);
}
